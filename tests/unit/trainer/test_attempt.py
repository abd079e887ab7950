from pathlib import Path

import pytest

from trainer.attempt import attempt, results_folder
from trainer.settings import Settings
from tuning.entrypoint import Stopped
from tuning.environment import read_settings
from tuning.errors import DatasetError, ResourceExhausted
from tuning.lease import LeaseState, lease_state
from tuning.outcome import Completed, Failed, announce, read_outcome


def settings(config: Path, **environ: str) -> Settings:
    return read_settings(Settings, {"YAML_FILE_PATH": str(config), **environ})


@pytest.mark.parametrize(
    ("text", "folder"),
    [
        ("training_config: {TrainingArguments: {output_dir: /mnt/there}}", "/mnt/there"),
        ("training_config: {TrainingArguments: {output_dir: there}, LoraConfg: {}}", "/mnt/there"),
        ("training_config: {}", "/mnt/results"),
        ("training_config: {TrainingArguments: {output_dir: /mnt}}", "/mnt/results"),
        ("{", "/mnt/results"),
    ],
)
def test_the_results_folder_is_found_in_a_configuration_that_is_broken_elsewhere(
    tmp_path: Path, text: str, folder: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert str(results_folder(settings(tmp_path / "c.yaml"))) == folder


def test_the_variable_wins_over_the_configuration(tmp_path: Path) -> None:
    assert results_folder(settings(tmp_path / "no.yaml", RESULTS_PATH="/here")) == Path("/here")


def test_inside_an_attempt_the_lease_is_held_and_the_old_outcome_is_gone(tmp_path: Path) -> None:
    announce(tmp_path, Completed("earlier", (), "m", 1))
    with attempt(tmp_path, "now"):
        assert read_outcome(tmp_path) is None
    assert lease_state(tmp_path) is LeaseState.FREE
    assert read_outcome(tmp_path) is None


@pytest.mark.parametrize(
    ("error", "code", "cause"),
    [
        (DatasetError("line 12 at https://u:s3cret@h/x"), 65, "DatasetError"),
        (ZeroDivisionError("oh"), 70, "Bug"),
        (Stopped(15), 143, "Stopped"),
    ],
)
def test_every_bad_end_is_announced_and_goes_on(tmp_path: Path, error: BaseException, code: int, cause: str) -> None:
    with pytest.raises(type(error)), attempt(tmp_path, "now"):
        raise error
    outcome = read_outcome(tmp_path, "now")
    assert isinstance(outcome, Failed)
    assert (outcome.exit_code, outcome.cause) == (code, cause)
    assert "s3cret" not in outcome.message


def test_a_results_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceExhausted, match="cannot write to the results folder"), attempt(tmp_path / "file", ""):
        pass
