"""Which chat template writes a conversation: the configuration's, the model's own, the preset's, or ChatML."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.errors import ConfigurationError
from tuning.presets import Preset
from tuning.training_config import TrainingConfig

TEMPLATES = Path(__file__).parents[1] / "chat_templates"
DEFAULT = "chatml"

logger = logging.getLogger(__name__)


def choose_chat_template(tokenizer: Any, config: TrainingConfig, preset: Preset | None) -> bool:
    """Give `tokenizer` its template; True where it is not the model's own.

    Raises ConfigurationError for a template that cannot be read or is not Jinja.
    """
    given = _given(config.model, config.arguments)
    if given:
        key, value = given
        tokenizer.chat_template = _read(key, value)
        _check(key, tokenizer.chat_template)
        logger.info("chat template from=%s", key)
        return True
    if tokenizer.chat_template:
        return False
    name = preset.template if preset and preset.template else DEFAULT
    if name == DEFAULT:
        logger.warning("the base model has no chat template; conversations use the default one (ChatML)")
    else:
        logger.info("the base model has no chat template; conversations use the preset's template=%s", name)
    tokenizer.chat_template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return True


def _given(model: Mapping[str, Any], arguments: Mapping[str, Any]) -> tuple[str, str] | None:
    for key, value in (
        ("ModelConfig.chat_template", model.get("chat_template")),
        ("TrainingArguments.chat_template_path", arguments.get("chat_template_path")),
    ):
        if value:
            return key, str(value)
    return None


def _read(key: str, value: str) -> str:
    if any(mark in value for mark in "{}\n"):
        return value
    # A name of one of ours needs no path.
    path = TEMPLATES / f"{value}.jinja" if (TEMPLATES / f"{value}.jinja").is_file() else Path(value)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigurationError(
            f"{key}: cannot read {value}: {reason}", hint="give a path in the image, or the template itself"
        ) from error


def _check(key: str, template: str) -> None:
    from jinja2 import Environment, TemplateSyntaxError

    try:
        Environment(autoescape=False, extensions=["jinja2.ext.loopcontrols"]).parse(  # noqa: S701 - parsed, not rendered
            template.replace("{% generation %}", "").replace("{% endgeneration %}", "")
        )
    except TemplateSyntaxError as error:
        raise ConfigurationError(f"{key} is not a Jinja template: {error.message} at line {error.lineno}") from error
