"""Read a Workspace from files: its fields, then the rules, every problem at once."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kaito_tuning.rules import problems_of, problems_of_update
from kaito_tuning.workspace import Workspace, freeze
from tuning.errors import ConfigurationError, InputNotFound, refuse
from tuning.yaml_text import parse_yaml


def read_documents(paths: Sequence[Path]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The one Workspace in the files `paths`, unchecked, and the ConfigMap that stands beside it, if any."""
    found: dict[str, Any] = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise InputNotFound(f"cannot read {path}: {error.strerror}", hint="give the path of a YAML file") from error
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"{path.name} is not UTF-8 at byte {error.start}") from error
        for document in parse_yaml(text, path.name):
            kind = document.get("kind") if isinstance(document, dict) else None
            if kind not in ("Workspace", "ConfigMap") or kind in found:
                raise ConfigurationError(
                    f"{path.name} has a document of the kind {kind!r}",
                    hint="give one Workspace and at most one ConfigMap",
                )
            found[kind] = document
    names = " and ".join(path.name for path in paths)
    if "Workspace" not in found:
        raise ConfigurationError(f"{names} has no Workspace", hint="it begins with kind: Workspace")
    return found["Workspace"], found.get("ConfigMap")


def parse_workspace(
    document: Mapping[str, Any], *, source: str, old: Mapping[str, Any] | None = None, local: bool = False
) -> Workspace:
    """Check `document` and freeze it. Raises ConfigurationError with all problems.

    `old` is the Workspace as it was before this update. `local` allows what only this machine can reach.
    """
    workspace, problems = freeze(document)
    if workspace:
        told = {problem.path for problem in problems}
        more = problems_of(workspace, local=local)
        if old is not None:
            before, _ = freeze(old)
            more += problems_of_update(before, workspace) if before else []
        problems += [problem for problem in more if problem.path not in told]
    refuse(problems, source=source)
    if workspace is None:
        raise ValueError("a Workspace without problems was frozen")
    return workspace
