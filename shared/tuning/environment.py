"""Every environment variable that a container reads: its name, type, default and meaning, written once.

An app gathers the ones it needs in a frozen dataclass, each field made by `setting(VARIABLE)`, and fills it with
`read_settings`. The rule is the same for all: an absent variable keeps its default, an empty one is a value, and all
problems are reported together.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from tuning import volumes
from tuning.errors import Problem, refuse

T = TypeVar("T")


@dataclass(frozen=True)
class Variable(Generic[T]):
    """One environment variable. `parse` turns its text into a value or raises ValueError with what it must be."""

    name: str
    parse: Callable[[str], T]
    meaning: str
    default: T | None = None
    required: bool = False


def _text(value: str) -> str:
    return value


def _non_empty(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value.strip()


def _path(value: str) -> Path:
    return Path(_non_empty(value))


def _flag(value: str) -> bool:
    lowered = value.strip().lower()
    if lowered in {"1", "true", "yes", "on"}:
        return True
    if lowered in {"", "0", "false", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        raise ValueError("must be a number of seconds") from None
    if not 0 < seconds < float("inf"):
        raise ValueError("must be a number of seconds greater than 0")
    return seconds


def _count(value: str) -> int:
    try:
        count = int(value)
    except ValueError:
        raise ValueError("must be a whole number") from None
    if count < 1:
        raise ValueError("must be at least 1")
    return count


def _words(value: str) -> tuple[str, ...]:
    return tuple(value.replace(",", " ").split())


def _whole(value: str) -> int:
    if not value.isascii() or not value.isdigit():
        raise ValueError("must be a whole number of at least 0")
    return int(value)


def _port(value: str) -> int:
    port = _whole(value)
    if port > 65535:
        raise ValueError("must be a port of at most 65535")
    return port


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        lowered = value.strip().lower()
        if lowered not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return lowered

    return parse


def split_urls(value: str) -> tuple[str, ...]:
    """The URLs of a list separated by white space, or by commas before a scheme (a URL may contain a comma)."""
    return tuple(url for url in re.split(r"\s+|,(?=\s|$|[A-Za-z][A-Za-z0-9+.-]*://)", value) if url)


LOG_FORMAT = Variable("LOG_FORMAT", _one_of("text", "json"), "how log lines look: text or json", "text")
LOG_LEVEL = Variable(
    "LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "the least level that is logged", "info"
)
TERMINATION_MESSAGE_PATH = Variable(
    "TERMINATION_MESSAGE_PATH",
    _path,
    "where the last sentence is written for `kubectl describe pod`; only if its folder exists",
    volumes.TERMINATION_MESSAGE,
)
TUNING_RUN_ID = Variable(
    "TUNING_RUN_ID",
    _text,
    "names this attempt (the pod's uid), so that an outcome left by an earlier one is never taken for ours",
    "",
)

DATA_URLS = Variable(
    "DATA_URLS", split_urls, "the dataset's URLs, separated by spaces, commas or new lines", required=True
)
DATA_VOLUME_PATH = Variable("DATA_VOLUME_PATH", _path, "the folder the dataset is downloaded into", volumes.DATA)
DOWNLOAD_ATTEMPTS = Variable(
    "DOWNLOAD_ATTEMPTS", _count, "attempts per source without progress before the download fails", 8
)
DOWNLOAD_CONNECT_TIMEOUT_SECONDS = Variable(
    "DOWNLOAD_CONNECT_TIMEOUT_SECONDS", _seconds, "how long a connection may take to open", 15.0
)
DOWNLOAD_IDLE_TIMEOUT_SECONDS = Variable(
    "DOWNLOAD_IDLE_TIMEOUT_SECONDS", _seconds, "how long a source may send nothing", 30.0
)

DOWNLOAD_CONNECTIONS = Variable("DOWNLOAD_CONNECTIONS", _count, "connections at the same time, shared by all files", 16)
DOWNLOAD_DEADLINE_SECONDS = Variable(
    "DOWNLOAD_DEADLINE_SECONDS", _seconds, "how long the whole download may take; unset: as long as bytes come"
)
DOWNLOAD_PROGRESS_SECONDS = Variable(
    "DOWNLOAD_PROGRESS_SECONDS", _seconds, "how often the download says how far it is", 10.0
)
DATA_LOCK = Variable("DATA_LOCK", _path, "a manifest of an earlier download; what differs from it is refused")
DATA_TOKENS_PATH = Variable(
    "DATA_TOKENS_PATH",
    _path,
    "a folder, mounted from a Secret, with a bearer token for each host in a file of its name",
)
DATA_ALLOW_FILE = Variable("DATA_ALLOW_FILE", _flag, "true: file:// URLs are read, for debugging", False)
DATA_ALLOW_LINK_LOCAL = Variable(
    "DATA_ALLOW_LINK_LOCAL", _flag, "true: link-local addresses, such as a cloud's metadata server, may be asked", False
)
DATA_BAD_ROWS = Variable(
    "DATA_BAD_ROWS",
    _one_of("fail", "skip"),
    "skip: leave rows that cannot be read to the trainer, which counts them (DatasetConfig.on_bad_rows)",
    "fail",
)
HF_ENDPOINT = Variable("HF_ENDPOINT", _non_empty, "the hub that hf:// URLs are resolved at", "https://huggingface.co")
HF_TOKEN_PATH = Variable("HF_TOKEN_PATH", _path, "a file, mounted from a Secret, with the token for the hub")
NETRC = Variable("NETRC", _path, "a netrc file, mounted from a Secret, with users and passwords by host")
REQUESTS_CA_BUNDLE = Variable("REQUESTS_CA_BUNDLE", _path, "certificates that are trusted beside the well-known ones")
SSL_CERT_FILE = Variable("SSL_CERT_FILE", _path, "the same as REQUESTS_CA_BUNDLE, under OpenSSL's name")

YAML_FILE_PATH = Variable(
    "YAML_FILE_PATH", _path, "the training configuration, a file with the six sections", volumes.TRAINING_CONFIG
)
DATASET_FOLDER_PATH = Variable("DATASET_FOLDER_PATH", _path, "the folder the dataset is read from", volumes.DATA)
MODEL_WEIGHTS_PATH = Variable(
    "MODEL_WEIGHTS_PATH",
    _non_empty,
    "the base model, a folder or a hub id, where the configuration names none",
    str(volumes.WEIGHTS),
)
BASE_MODEL_NAME = Variable(
    "BASE_MODEL_NAME", _text, "the base model's public name, written into the adapter instead of a local path", ""
)
TUNING_METHOD = Variable(
    "TUNING_METHOD", _one_of("", "lora", "qlora"), "lora or qlora; checked against QuantizationConfig", ""
)
RESULTS_PATH = Variable(
    "RESULTS_PATH",
    _path,
    "the folder of the adapter and the outcome; trainer: unset, it is TrainingArguments.output_dir",
)

TUNING_OOM_RETRY = Variable(
    "TUNING_OOM_RETRY",
    _flag,
    "true: out of memory in a step, go on with half the samples at a time, twice as often, then with checkpointing",
    True,
)
CHECKPOINT_SECONDS = Variable(
    "CHECKPOINT_SECONDS",
    _seconds,
    "how often a checkpoint is saved; unset: only as TrainingArguments say, and when the pod is stopped",
)
STEP_TIMEOUT_SECONDS = Variable(
    "STEP_TIMEOUT_SECONDS", _seconds, "how long a step may take before the run is ended as hung", 3600.0
)
PROGRESS_SECONDS = Variable("PROGRESS_SECONDS", _seconds, "how long the log may say nothing while steps pass", 60.0)
METRICS_PORT = Variable(
    "METRICS_PORT", _port, "where /metrics (Prometheus) and /healthz are served while training; 0: nowhere", 5000
)
TUNING_PROCESSES = Variable(
    "TUNING_PROCESSES", _whole, "processes on this node, one for each GPU; 0: as many as it has GPUs", 0
)
TUNING_NODES = Variable("TUNING_NODES", _count, "nodes that tune together (an Indexed Job's completions)", 1)
JOB_COMPLETION_INDEX = Variable("JOB_COMPLETION_INDEX", _whole, "which of the nodes this is, from 0", 0)
MASTER_ADDR = Variable("MASTER_ADDR", _text, "the host name of node 0, where the nodes meet", "")
MASTER_PORT = Variable("MASTER_PORT", _port, "the port on node 0 where the nodes meet", 29500)

OUTPUT_IMAGE = Variable(
    "OUTPUT_IMAGE",
    _text,
    "where the adapter image goes: registry/repository:tag, or oci:DIRECTORY:TAG for an OCI layout",
    "",
)
OUTPUT_IMAGES: Variable[tuple[str, ...]] = Variable(
    "OUTPUT_IMAGES", _words, "more places for the same image, separated by spaces, commas or new lines", ()
)
BASE_IMAGE = Variable(
    "BASE_IMAGE",
    _text,
    "what the image stands on; unset: a small layer with sh, mkdir and cp; scratch: nothing; or an image to copy",
    "",
)
LAYER_COMPRESSION = Variable(
    "LAYER_COMPRESSION",
    _one_of("none", "gzip", "zstd"),
    "how the adapter's layer is stored; weights hardly shrink, so none is the fastest on all but slow lines",
    "none",
)
PUSH_REFERRERS = Variable(
    "PUSH_REFERRERS", _flag, "true: metrics, label report and provenance are attached to the pushed image", True
)
DOCKER_CONFIG = Variable(
    "DOCKER_CONFIG", _path, "the folder with the registry credentials (config.json)", volumes.DOCKER_CONFIG
)
PUSH_BACKEND = Variable(
    "PUSH_BACKEND",
    _one_of("registry", "docker"),
    "registry: the pusher speaks to the registry itself; docker: a Docker engine does",
    "registry",
)
DOCKER_HOST = Variable("DOCKER_HOST", _text, "where the Docker engine listens, for PUSH_BACKEND=docker", "")
DOCKER_CERT_PATH: Variable[Path | None] = Variable(
    "DOCKER_CERT_PATH", _path, "the folder with ca.pem, cert.pem and key.pem for a Docker engine behind TLS", None
)
PLAIN_HTTP_REGISTRIES: Variable[tuple[str, ...]] = Variable(
    "PLAIN_HTTP_REGISTRIES",
    _words,
    "registries (host:port) that are spoken to without TLS, beside those on the loopback address",
    (),
)
POLL_SECONDS = Variable("POLL_SECONDS", _seconds, "how often the pusher looks for the trainer's outcome", 1.0)
TRAINER_START_TIMEOUT_SECONDS = Variable(
    "TRAINER_START_TIMEOUT_SECONDS",
    _seconds,
    "how long the pusher waits for a sign of the trainer (its image may still be pulled)",
    3600.0,
)
PUSH_DEADLINE_SECONDS = Variable(
    "PUSH_DEADLINE_SECONDS", _seconds, "how long a push that keeps failing for transient reasons is tried", 3600.0
)
PUSH_PREFLIGHT = Variable(
    "PUSH_PREFLIGHT", _one_of("run", "skip"), "skip: do not test the registry before training", "run"
)
PRESET_NAME = Variable("PRESET_NAME", _text, "the preset, for the image annotation sh.kaito.model.name", "")


def setting(variable: Variable[T]) -> T:
    """A dataclass field that `read_settings` fills from `variable` (typed as the value it will hold)."""
    return cast(T, dataclasses.field(metadata={"variable": variable}))


S = TypeVar("S")


def read_settings(settings: type[S], environ: Mapping[str, str]) -> S:
    """Fill the dataclass `settings` from `environ`.

    Raises ConfigurationError naming every variable that is missing or has a wrong value.
    """
    problems: list[Problem] = []
    values: dict[str, Any] = {}
    for field in variables_of(settings):
        variable = field.metadata["variable"]
        try:
            values[field.name] = read_variable(variable, environ)
        except ValueError as error:
            problems.append(Problem(variable.name, str(error), f"it is {variable.meaning}"))
    refuse(problems, source="environment")
    return settings(**values)


def read_variable(variable: Variable[T], environ: Mapping[str, str]) -> T:
    """The value of one variable, or its default. Raises ValueError with what it must be."""
    text = environ.get(variable.name)
    if text is None:
        if variable.required:
            raise ValueError("is not set")
        return cast(T, variable.default)
    value = variable.parse(text)
    if variable.required and not value:
        raise ValueError("is empty")
    return value


def variables_of(settings: type[Any]) -> tuple["dataclasses.Field[Any]", ...]:
    """The fields of a settings dataclass, each with its Variable in `metadata`."""
    return dataclasses.fields(settings)


def describe(settings: type[Any]) -> str:
    """A help text: one paragraph for each variable that `settings` reads."""
    lines = []
    for field in variables_of(settings):
        variable: Variable[Any] = field.metadata["variable"]
        default = "required" if variable.required else f"default {variable.default}" if variable.default else "optional"
        lines.append(f"  {variable.name} ({default})\n      {variable.meaning}")
    return "\n".join(lines)
