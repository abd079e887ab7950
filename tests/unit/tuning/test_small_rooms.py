"""volumes, files, provenance, suggestion, yaml_text, command, failures."""

import stat
from pathlib import Path

import pytest

from tuning.command import read_command
from tuning.errors import ConfigurationError, DatasetError
from tuning.failures import first_cause
from tuning.files import write_whole
from tuning.provenance import DatasetFile, DatasetManifest, read_manifest, write_manifest
from tuning.suggestion import did_you_mean
from tuning.volumes import DATASET_MANIFEST, normalise_output_dir
from tuning.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("output_dir", "path"),
    [
        (None, "/mnt/results"),
        ("", "/mnt/results"),
        ("/mnt/results/", "/mnt/results"),
        ("results", "/mnt/results"),
        ("/out/x", "/mnt/out/x"),
        ("/mntfoo", "/mnt/mntfoo"),
        ("/mnt/a/../b", "/mnt/b"),
        ("/mnt/database", "/mnt/database"),
    ],
)
def test_an_output_dir_means_one_place(output_dir: str | None, path: str) -> None:
    assert str(normalise_output_dir(output_dir)) == path


def test_a_file_appears_whole_and_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_whole(path, b"one")
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_whole(path, b"one")
    with pytest.raises(TypeError):
        write_whole(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [path]


def _manifest(*pairs: tuple[str, str]) -> DatasetManifest:
    return DatasetManifest(tuple(DatasetFile(name, "http://h/x", 1, digest) for name, digest in pairs))


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = _manifest(("a", "1"), ("b", "2"))
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest


def test_a_folder_without_a_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def test_a_damaged_manifest_is_an_error(tmp_path: Path) -> None:
    write_manifest(tmp_path, _manifest(("a", "1")))
    (tmp_path / DATASET_MANIFEST).write_text("{")
    with pytest.raises(DatasetError, match="damaged"):
        read_manifest(tmp_path)


def test_the_dataset_digest_depends_on_the_content_and_not_on_its_order() -> None:
    assert _manifest(("a", "1"), ("b", "2")).digest == _manifest(("b", "2"), ("a", "1")).digest
    assert _manifest(("a", "1")).digest != _manifest(("a", "2")).digest
    assert _manifest(("a", "1")).digest != _manifest(("b", "1")).digest


def test_the_nearest_name_is_suggested_whatever_its_case() -> None:
    assert did_you_mean("instancetype", ["instanceType", "count"]) == "did you mean instanceType?"
    assert did_you_mean("zzz", ["instanceType", "count"]) == ""


def test_yaml_numbers_with_an_exponent_are_numbers() -> None:
    assert parse_yaml("a: 2e-4\nb: 1E5\nc: -3e2\nd: e5\ne: 1.5", "x") == [
        {"a": 2e-4, "b": 1e5, "c": -300.0, "d": "e5", "e": 1.5}
    ]


def test_yaml_errors_name_the_line_and_tabs() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_yaml("a: 1\n\tb: 2", "x.yaml")
    assert "x.yaml line 2" in caught.value.message
    assert "tabs" in caught.value.hint


def test_help_prints_the_variables(capsys: pytest.CaptureFixture[str]) -> None:
    from data_downloader.settings import Settings

    with pytest.raises(SystemExit) as caught:
        read_command("data-downloader", "Downloads.", Settings, arguments=["--help"])
    assert caught.value.code == 0
    assert "DATA_URLS (required)" in capsys.readouterr().out


def test_a_command_is_one_of_those_offered() -> None:
    from data_downloader.settings import Settings

    assert read_command("x", "X.", Settings, ["preflight"], ["preflight"]) == "preflight"
    assert read_command("x", "X.", Settings, ["preflight"], []) == ""


def test_the_words_of_a_failure_are_those_of_its_first_cause() -> None:
    error = RuntimeError("Max retries exceeded with url: /v2/?token=hunter2")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert first_cause(error) == "Connection refused"
    assert first_cause(TimeoutError()) == "TimeoutError"
