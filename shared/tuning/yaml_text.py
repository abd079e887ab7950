"""YAML as its users read it: 2e-4 is a number, a key that stands twice is an error."""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode

from tuning.errors import ConfigurationError


class _Loader(yaml.SafeLoader):
    """PyYAML reads YAML 1.1, where `2e-4` is a text and the last of two equal keys silently wins."""

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen and key != "<<":
                raise ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {key: list(value) for key, value in yaml.SafeLoader.yaml_implicit_resolvers.items()}
# YAML 1.2 core schema, 10.3.2: a number with an exponent needs neither a dot nor a sign.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def parse_yaml(text: str, source: str) -> list[Any]:
    """All documents in `text`, empty ones left out. Raises ConfigurationError naming `source` and the line."""
    try:
        # _Loader derives from SafeLoader: it makes plain data only.
        documents = list(yaml.load_all(text, _Loader))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{source} line {mark.line + 1}" if mark else source
        hint = "indent with spaces, not tabs" if "\\t" in str(error.problem) else ""
        raise ConfigurationError(f"{where} is not YAML: {error.problem or error.context}", hint=hint) from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source} is not YAML: {error}") from error
    return [document for document in documents if document is not None]
