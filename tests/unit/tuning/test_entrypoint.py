import json
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tuning.entrypoint import TERMINATION_MESSAGE_LIMIT_BYTES, encode_termination_message, run
from tuning.errors import DatasetError

Main = Callable[[Mapping[str, str]], Mapping[str, Any] | None]


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _fail(error: BaseException) -> Main:
    def main(_: Mapping[str, str]) -> None:
        raise error

    return main


def _run(main: Main, tmp_path: Path, **environ: str) -> tuple[int, dict[str, Any]]:
    path = tmp_path / "message"
    code = run(main, {"TERMINATION_MESSAGE_PATH": str(path), **environ})
    return code, json.loads(path.read_text()) if path.exists() else {}


def test_a_success_exits_with_0_and_its_message(tmp_path: Path) -> None:
    assert _run(lambda _: {"message": "done"}, tmp_path) == (0, {"exitCode": 0, "message": "done"})


def test_a_cause_exits_with_its_code_and_the_same_sentence_in_log_and_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, message = _run(_fail(DatasetError("line 12 is not JSON", hint="fix it")), tmp_path)
    assert code == 65
    assert message == {"exitCode": 65, "cause": "DatasetError", "message": "line 12 is not JSON", "hint": "fix it"}
    log = capsys.readouterr().err
    assert "DatasetError: line 12 is not JSON. Hint: fix it." in log
    assert "Traceback" not in log


def test_a_bug_exits_with_70_and_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = _run(_fail(ZeroDivisionError("oh")), tmp_path)
    assert (code, message["exitCode"], message["cause"]) == (70, 70, "Bug")
    assert "Traceback" in capsys.readouterr().err


def test_sigterm_ends_the_app_with_143(tmp_path: Path) -> None:
    def main(_: Mapping[str, str]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    code, message = _run(main, tmp_path)
    assert (code, message["cause"]) == (143, "Stopped")


def test_secrets_never_reach_the_termination_message(tmp_path: Path) -> None:
    _, message = _run(_fail(DatasetError("https://u:s3cret@host/x?sig=s3cret", hint="token=s3cret")), tmp_path)
    assert "s3cret" not in json.dumps(message)


def test_a_wrong_log_format_is_a_configuration_error(tmp_path: Path) -> None:
    code, message = _run(lambda _: None, tmp_path, LOG_FORMAT="xml")
    assert code == 78
    assert "LOG_FORMAT" in message["message"]


def test_a_message_path_that_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    assert run(lambda _: {"message": "x"}, {"TERMINATION_MESSAGE_PATH": str(tmp_path / "no" / "such")}) == 0


@pytest.mark.parametrize("character", ["x", "é", "語", "\n"])
def test_a_long_message_is_cut_to_4096_bytes_and_stays_json(character: str) -> None:
    encoded = encode_termination_message({"exitCode": 65, "message": character * 9000, "hint": "keep me"})
    assert len(encoded) <= TERMINATION_MESSAGE_LIMIT_BYTES
    content = json.loads(encoded)
    assert content["hint"] == "keep me"
    assert content["message"].endswith("…")
