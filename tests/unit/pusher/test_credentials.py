import base64
import json
from pathlib import Path
from typing import Any

import pytest

from pusher.credentials import read_credentials
from tuning.docker_config import Credentials
from tuning.errors import AccessDenied, ConfigurationError

AUTH = base64.b64encode(b"user:s3cret").decode()
EXPECTED = Credentials("user", "s3cret")


def read(folder: Path, config: Any, registry: str = "r.example.com") -> Credentials:
    (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    [credentials] = read_credentials(folder, registry, "team/app")[:1] or [Credentials()]
    return credentials


@pytest.mark.parametrize(
    "entry",
    [
        {"auth": AUTH},
        {"auth": AUTH, "username": "user", "password": "s3cret"},
        {"username": "user", "password": "s3cret"},
    ],
)
def test_an_entry_is_read_in_every_form(tmp_path: Path, entry: dict[str, str]) -> None:
    assert read(tmp_path, {"auths": {"r.example.com": entry}}) == EXPECTED


@pytest.mark.parametrize("key", ["https://r.example.com", "http://r.example.com/v2/", "https://r.example.com/v1/"])
def test_a_key_may_be_a_url(tmp_path: Path, key: str) -> None:
    assert read(tmp_path, {"auths": {key: {"auth": AUTH}}}) == EXPECTED


def test_docker_hub_has_a_key_of_its_own(tmp_path: Path) -> None:
    config = {"auths": {"https://index.docker.io/v1/": {"auth": AUTH}}}
    assert read(tmp_path, config, "docker.io") == EXPECTED


def test_an_identity_token_is_kept_apart(tmp_path: Path) -> None:
    config = {"auths": {"r.example.com": {"auth": AUTH, "identitytoken": "t"}}}
    assert read(tmp_path, config) == Credentials(identity_token="t")


def test_the_longest_key_that_fits_wins(tmp_path: Path) -> None:
    other = base64.b64encode(b"other:x").decode()
    auths = {
        "r.example.com": {"auth": other},
        "r.example.com/team": {"auth": AUTH},
        "r.example.com/te": {"auth": other},
    }
    assert read(tmp_path, {"auths": auths}) == EXPECTED


def test_another_registrys_entry_is_not_used(tmp_path: Path) -> None:
    assert not read(tmp_path, {"auths": {"other.example.com": {"auth": AUTH}}})


def test_without_a_file_there_are_no_credentials(tmp_path: Path) -> None:
    assert not read_credentials(tmp_path, "r.example.com", "a/b")


def test_a_credential_helper_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "docker-credential-ci"
    answer = json.dumps({"ServerURL": "r.example.com", "Username": "user", "Secret": "s3cret"})
    helper.write_text(f"#!/bin/sh\necho '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert read(tmp_path, {"credHelpers": {"r.example.com": "ci"}}) == EXPECTED


def test_a_missing_credential_helper_is_named(tmp_path: Path) -> None:
    with pytest.raises(AccessDenied, match="docker-credential-nosuch"):
        read(tmp_path, {"credHelpers": {"r.example.com": "nosuch"}})


@pytest.mark.parametrize("config", ["{", "[]", "s3cret"])
def test_a_file_that_is_no_docker_config_is_refused_without_its_content(tmp_path: Path, config: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a docker config file") as caught:
        read(tmp_path, config)
    assert "s3cret" not in str(caught.value)


def test_a_malformed_auth_is_refused_without_its_content(tmp_path: Path) -> None:
    with pytest.raises((AccessDenied, ConfigurationError)) as caught:
        read(tmp_path, {"auths": {"r.example.com": {"auth": "s3cret!"}}})
    assert "s3cret" not in str(caught.value)


def test_credentials_are_never_shown() -> None:
    assert "s3cret" not in repr(EXPECTED)


def test_several_files_give_several_candidates_the_longest_key_first(tmp_path: Path) -> None:
    def entry(user: str) -> dict[str, str]:
        return {"username": user, "password": "p"}

    folder = tmp_path / "config.d" / "team-secret"
    folder.mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"r.example.com": entry("first")}}))
    for name, auths in {
        "a.json": {"r.example.com": entry("second"), "other.example.com": entry("no")},
        "b.json": {"r.example.com/team": entry("longest")},
        "c.json": {"r.example.com": entry("first")},
    }.items():
        (folder / name).write_text(json.dumps({"auths": auths}))
    hidden = tmp_path / "config.d" / "..2026_11_24"
    hidden.mkdir()
    (hidden / "x.json").write_text("{not json")
    found = read_credentials(tmp_path, "r.example.com", "team/app")
    assert [credentials.username for credentials in found] == ["longest", "first", "second"]


def test_a_file_of_config_d_that_is_damaged_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.d").mkdir()
    (tmp_path / "config.d" / "x.json").write_text("{not json")
    with pytest.raises(ConfigurationError) as caught:
        read_credentials(tmp_path, "r.example.com", "team/app")
    assert "config.d/x.json is not a docker config file" in str(caught.value)
