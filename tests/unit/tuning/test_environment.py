from dataclasses import dataclass
from pathlib import Path

import pytest

from tuning import environment
from tuning.environment import describe, read_settings, setting, split_urls
from tuning.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True)
class Settings:
    urls: tuple[str, ...] = setting(environment.DATA_URLS)
    folder: Path = setting(environment.DATA_VOLUME_PATH)
    attempts: int = setting(environment.DOWNLOAD_ATTEMPTS)
    preset: str = setting(environment.PRESET_NAME)


def test_an_absent_variable_keeps_its_default() -> None:
    settings = read_settings(Settings, {"DATA_URLS": "http://a/b"})
    assert settings == Settings(urls=("http://a/b",), folder=Path("/data"), attempts=8, preset="")


def test_all_problems_are_reported_in_one_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(Settings, {"DOWNLOAD_ATTEMPTS": "many", "DATA_VOLUME_PATH": ""})
    assert "3 problems" in caught.value.message
    assert "DATA_URLS is not set" in caught.value.message
    assert "DATA_VOLUME_PATH must not be empty" in caught.value.message
    assert "DOWNLOAD_ATTEMPTS must be a whole number" in caught.value.message


def test_a_required_variable_that_is_empty_is_a_problem() -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(Settings, {"DATA_URLS": " \n "})
    assert caught.value.message == "environment: DATA_URLS is empty"


@pytest.mark.parametrize(
    ("text", "urls"),
    [
        ("http://a/1 http://a/2", ("http://a/1", "http://a/2")),
        ("http://a/1,https://a/2", ("http://a/1", "https://a/2")),
        ("http://a/1,\nhttp://a/2\r\n", ("http://a/1", "http://a/2")),
        ("http://a/1,2.jsonl", ("http://a/1,2.jsonl",)),
        ("  ", ()),
    ],
)
def test_urls_are_separated_by_spaces_commas_and_new_lines(text: str, urls: tuple[str, ...]) -> None:
    assert split_urls(text) == urls


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_seconds_must_be_a_positive_number(text: str) -> None:
    with pytest.raises(ValueError, match="seconds"):
        environment.POLL_SECONDS.parse(text)


def test_a_choice_outside_the_list_is_refused_with_the_list() -> None:
    with pytest.raises(ValueError, match="must be one of text, json"):
        environment.LOG_FORMAT.parse("xml")


def test_the_description_names_every_variable_with_its_default() -> None:
    text = describe(Settings)
    assert "DATA_URLS (required)" in text
    assert "DOWNLOAD_ATTEMPTS (default 8)" in text
    assert "PRESET_NAME (optional)" in text
