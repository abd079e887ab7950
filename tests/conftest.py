"""What every level of tests shares."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.registry import FakeRegistry
from tests.support.web import Web

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """In CI a skip is an error, unless it is about an accelerator."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        reason = str(call.excinfo.value) if call.excinfo else ""
        if "accelerator" not in reason:
            report.outcome = "failed"
            report.longrepr = f"skipped in CI: {reason}"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes do not name a test: they may differ between two collections (a gzip header carries the time)."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture
def web() -> Iterator[Web]:
    """A web server on the loopback address that answers as told."""
    with Web() as server:
        yield server


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    """A registry on the loopback address."""
    with FakeRegistry() as server:
        yield server


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama with a tokenizer and a chat template, pre-trained for a moment."""
    # Seconds of imports that most tests do not need.
    from demo.tiny_model import make_tiny_model

    folder = tmp_path_factory.mktemp("tiny-model")
    make_tiny_model(folder, (ROOT / "demo" / "data" / "corpus.txt").read_text(), steps=40)
    return folder
