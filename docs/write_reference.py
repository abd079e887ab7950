"""Write reference.md from the sources that the programs themselves read: `python docs/write_reference.py`.

A test writes it again and compares, so that no key, variable or base model is missing or described by an older default.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from data_downloader.settings import Settings as DownloaderSettings
from kaito_tuning.explain import explain
from kaito_tuning.instances import instances
from pusher.settings import Settings as PusherSettings
from trainer.settings import Settings as TrainerSettings
from tuning import environment
from tuning.config_keys import accepted_keys
from tuning.environment import Variable, variables_of
from tuning.errors import CAUSES
from tuning.presets import presets

APPS = {"data-downloader": DownloaderSettings, "trainer": TrainerSettings, "pusher": PusherSettings}
EVERYWHERE = (environment.LOG_FORMAT, environment.LOG_LEVEL, environment.TERMINATION_MESSAGE_PATH)
HEAD = """# Reference

Written by `make docs` from what the programs read; the words are those of `kaito-tuning explain` and of each image's
`--help`.
"""
# The kinds of a value, as a reader of YAML says them; null is taken wherever it means the default.
KINDS = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true, false",
    "list": "list",
    "dict": "mapping",
}


def reference() -> str:
    """The whole page."""
    return "\n".join([HEAD, *_configuration(), *_variables(), *_exit_codes(), *_models(), *_machines()]).rstrip() + "\n"


def _configuration() -> Iterable[str]:
    yield "## The training configuration\n"
    for section in accepted_keys():
        found = explain(section)
        yield f"### {section}\n"
        yield f"Read by: {found[0].source}.\n"
        rows = []
        for entry in found:
            values = ", ".join(f"`{choice}`" for choice in entry.choices) or _kinds(entry.kinds)
            meaning = "" if entry.meaning.startswith("see the library") else entry.meaning
            rows.append((f"`{entry.path.partition('.')[2]}`", meaning, values, _value(entry.default)))
        # What people set comes first.
        yield from _table(("key", "meaning", "values", "default"), sorted(rows, key=lambda row: not row[1]))


def _variables() -> Iterable[str]:
    yield "## Environment variables\n"
    yield "### of every container\n"
    yield from _variable_table(EVERYWHERE)
    for app, settings in APPS.items():
        yield f"### of the {app}\n"
        yield from _variable_table(field.metadata["variable"] for field in variables_of(settings))


def _variable_table(variables: Iterable[Variable[Any]]) -> Iterable[str]:
    rows = [
        (f"`{variable.name}`", variable.meaning, "required" if variable.required else _value(variable.default))
        for variable in variables
    ]
    return _table(("variable", "meaning", "default"), rows)


def _exit_codes() -> Iterable[str]:
    yield "## Exit codes\n"
    yield "What to do about each: [troubleshooting](troubleshooting.md).\n"
    rows = [
        (str(cause.exit_code), cause.__name__, str(cause.__doc__).splitlines()[0], str(cause.reaction))
        for cause in sorted(CAUSES, key=lambda cause: cause.exit_code)
    ]
    yield from _table(("code", "cause", "means", "the Job"), rows)


def _models() -> Iterable[str]:
    yield "## Base models\n"
    rows = [
        (f"`{name}`", preset.hub_id, f"{preset.parameters / 1e9:.1f}", ", ".join(preset.methods), str(preset.gpus))
        for name, preset in presets().items()
    ]
    yield from _table(("preset", "on the hub", "billion parameters", "methods", "GPUs"), rows)


def _machines() -> Iterable[str]:
    yield "## Instance types\n"
    rows = [(f"`{name}`", str(found.gpus), found.gpu, str(found.gib)) for name, found in instances().items()]
    yield from _table(("type", "GPUs", "kind", "GiB each"), rows)


def _kinds(kinds: Sequence[str]) -> str:
    return " or ".join(words for kind, words in KINDS.items() if kind in kinds) or "any"


def _value(value: object) -> str:
    if value is None or value == "" or value == ():
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in row)} |"
    yield ""


if __name__ == "__main__":
    (Path(__file__).parent / "reference.md").write_text(reference())
