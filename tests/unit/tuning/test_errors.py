import os

import pytest

from tuning.errors import CAUSES, ConfigurationError, JobReaction, Problem, TuningError, in_one_line, refuse


def test_every_cause_has_an_exit_code_of_its_own_that_means_nothing_else() -> None:
    codes = [cause.exit_code for cause in CAUSES]
    assert len(set(codes)) == len(codes)
    assert all(64 <= code <= 78 for code in codes), "the range of sysexits.h"
    assert os.EX_SOFTWARE not in codes, "that is a bug, not a cause"


def test_the_list_of_causes_is_complete() -> None:
    assert set(CAUSES) == set(TuningError.__subclasses__())


def test_the_exit_codes_are_those_of_the_documented_table() -> None:
    assert {cause.__name__: (cause.exit_code, cause.reaction) for cause in CAUSES} == {
        "ConfigurationError": (78, JobReaction.FAIL_JOB),
        "InputNotFound": (66, JobReaction.FAIL_JOB),
        "DatasetError": (65, JobReaction.FAIL_JOB),
        "AccessDenied": (77, JobReaction.FAIL_JOB),
        "ResourceExhausted": (71, JobReaction.FAIL_JOB),
        "TransientError": (75, JobReaction.COUNT),
        "TrainingFailed": (69, JobReaction.COUNT),
    }


def test_no_problem_refuses_nothing() -> None:
    refuse([], source="x.yaml")


def test_one_problem_keeps_its_hint_apart() -> None:
    with pytest.raises(ConfigurationError) as caught:
        refuse([Problem("a.b", "is unknown", "did you mean a.c?")], source="x.yaml")
    assert (caught.value.message, caught.value.hint) == ("x.yaml: a.b is unknown", "did you mean a.c?")


def test_many_problems_are_listed_with_their_hints() -> None:
    with pytest.raises(ConfigurationError) as caught:
        refuse([Problem("a", "is wrong", "write b"), Problem("", "nothing fits")], source="x.yaml")
    assert caught.value.message == "x.yaml has 2 problems: a is wrong (write b); nothing fits"


def test_a_hint_follows_its_message_as_a_sentence() -> None:
    assert in_one_line("x is unknown", "did you mean y?") == "x is unknown. Hint: did you mean y?"
    assert in_one_line("it failed.") == "it failed."
