"""The sizes of a base model, for the plan: from the presets, or from the `config.json` that the hub has of it."""

import json
import urllib.error
import urllib.request

from tuning.memory import Model, model_of_config, model_of_preset
from tuning.presets import Preset

_TIMEOUT_SECONDS = 10.0


def find_model(preset: Preset, hub: str, token: str = "") -> tuple[Model | None, list[str]]:
    """The model of `preset` (None: not known), and why not. `hub` is the address of a hub, `token` what it asks for."""
    model = model_of_preset(preset)
    if model is not None:
        return model, []
    url = f"{hub.rstrip('/')}/{preset.hub_id}/resolve/main/config.json"
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        if not url.startswith(("https://", "http://")):
            raise ValueError("the hub's address is no URL")
        request = urllib.request.Request(url, headers=headers)  # noqa: S310 - checked above
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:  # noqa: S310
            model = model_of_config(json.load(answer))
    except (urllib.error.URLError, OSError, ValueError) as error:
        return None, [f"the hub did not tell the sizes of {preset.hub_id}: {getattr(error, 'reason', error)}"]
    return model, [] if model else [f"the config.json of {preset.hub_id} does not tell its sizes"]
