import base64
import gzip
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from backports import zstd
from tests.support.registry import FakeRegistry

from pusher.delivery import check_destination, deliver_adapter
from pusher.settings import Settings
from tuning.environment import read_settings
from tuning.errors import (
    AccessDenied,
    ConfigurationError,
    InputNotFound,
    ResourceExhausted,
    TrainingFailed,
    TransientError,
)
from tuning.outcome import Completed, Failed, announce, describe_files


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.retry._backoff", lambda _: 0.0)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(os.urandom(200_000))
    names = ["adapter_config.json", "adapter_model.safetensors"]
    files = describe_files(folder, names)
    announce(folder, Completed("run", files, "org/model", 3, {}, "sha256:d", "lora"))
    return folder


def settings(results: Path, image: str, config: Path | None = None, **environ: str) -> Settings:
    return read_settings(
        Settings,
        {
            "OUTPUT_IMAGE": image,
            "RESULTS_PATH": str(results),
            "DOCKER_CONFIG": str(config or results),
            "POLL_SECONDS": "0.01",
            "PUSH_DEADLINE_SECONDS": "5",
            **environ,
        },
    )


@pytest.mark.parametrize("auth", ["none", "basic", "bearer"])
def test_an_adapter_is_delivered_to_a_registry(registry: FakeRegistry, results: Path, auth: str) -> None:
    registry.auth = auth
    config = registry.write_config(results.parent)
    said = deliver_adapter(settings(results, f"{registry.host}/adapters/phi:v1", config, PRESET_NAME="phi-3"))
    _, tagged = registry.manifests["v1"]
    index = json.loads(tagged)
    assert said["image"].startswith(f"{registry.host}/adapters/phi:v1@sha256:")
    assert said["image"].rpartition("@")[2] in registry.manifests
    assert index["annotations"]["sh.kaito.model.name"] == "phi-3"
    assert index["annotations"]["sh.kaito.tuning.dataset-digest"] == "sha256:d"
    assert len(index["manifests"]) == 2
    assert "ci-pass" not in json.dumps(said)


def test_the_order_is_blobs_then_manifests_then_the_tag(registry: FakeRegistry, results: Path) -> None:
    registry.auth = "none"
    deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    assert [request.split()[0] for request in registry.requests[:2]] == ["POST", "DELETE"], "refused before the wait"
    puts = [request.split("/")[4] for request in registry.requests if request.startswith("PUT")]
    assert puts == ["blobs"] * 3 + ["manifests"] * 3
    assert [request for request in registry.requests if request.startswith("PUT")][-1] == "PUT /v2/a/b/manifests/v1"


def test_a_second_push_of_the_same_adapter_sends_no_blob(registry: FakeRegistry, results: Path) -> None:
    registry.auth = "none"
    first = deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    registry.requests.clear()
    assert deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))["image"] == first["image"]
    assert not any(request.startswith("PUT") and "blobs" in request for request in registry.requests)


def test_an_identity_token_is_exchanged(registry: FakeRegistry, results: Path) -> None:
    registry.auth = "bearer"
    auths = {registry.host: {"auth": "Og==", "identitytoken": "ci-pass"}}
    (results.parent / "config.json").write_text(json.dumps({"auths": auths}))
    deliver_adapter(settings(results, f"{registry.host}/a/b:v1", results.parent))
    assert "v1" in registry.manifests


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_wrong_credentials_are_refused_by_the_preflight(registry: FakeRegistry, results: Path, auth: str) -> None:
    registry.auth = auth
    config = registry.write_config(results.parent, password="wr0ng-pass")
    with pytest.raises(AccessDenied) as caught:
        check_destination(settings(results, f"{registry.host}/a/b:v1", config))
    assert "UNAUTHORIZED" in caught.value.message
    assert str(config / "config.json") in caught.value.message
    assert "wr0ng-pass" not in caught.value.message + caught.value.hint
    assert not any("blobs" in request for request in registry.requests[1:] if request.startswith("PUT"))


def test_missing_credentials_are_named(registry: FakeRegistry, results: Path) -> None:
    with pytest.raises(AccessDenied, match="no credentials in"):
        check_destination(settings(results, f"{registry.host}/a/b:v1"))


def test_the_preflight_starts_an_upload_and_cancels_it(registry: FakeRegistry, results: Path) -> None:
    registry.auth = "none"
    check_destination(settings(results, f"{registry.host}/a/b:v1"))
    assert [request.split()[0] for request in registry.requests] == ["POST", "DELETE"]
    assert registry.blobs == {}


def test_the_preflight_can_be_skipped(results: Path) -> None:
    check_destination(settings(results, "127.0.0.1:1/a/b:v1", PUSH_PREFLIGHT="skip"))


def _once(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], bool]:
    """A fault for the first PUT of a blob and of a manifest."""
    hit: set[str] = set()

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        kind = "blobs" if "blobs" in handler.path else "manifests"
        if handler.command != "PUT" or kind in hit:
            return False
        hit.add(kind)
        if status == 0:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            handler.answer(status, **headers)  # type: ignore[attr-defined]
        return True

    return fault


@pytest.mark.parametrize("status", [0, 408, 429, 500, 502, 503])
def test_a_fault_that_passes_is_survived(registry: FakeRegistry, results: Path, status: int) -> None:
    registry.auth, registry.fault = "none", _once(status)
    deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    assert "v1" in registry.manifests


@pytest.mark.parametrize(
    ("status", "cause"),
    [(403, AccessDenied), (404, InputNotFound), (400, ConfigurationError)],
)
def test_what_will_not_pass_ends_at_once(
    registry: FakeRegistry, results: Path, status: int, cause: type[Exception]
) -> None:
    registry.auth, registry.fault = "none", _once(status)
    with pytest.raises(cause):
        deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    assert "v1" not in registry.manifests


def _refuse_bodies(largest: int) -> Callable[[BaseHTTPRequestHandler], bool]:
    """A proxy that lets no larger body through."""

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        if int(handler.headers.get("Content-Length", 0)) <= largest:
            return False
        handler.answer(413)  # type: ignore[attr-defined]
        return True

    return fault


def test_a_body_that_is_too_large_is_sent_in_pieces(
    registry: FakeRegistry, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pusher.chunked.CHUNK_BYTES", 50_000)
    registry.auth, registry.fault = "none", _refuse_bodies(100_000)
    deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    assert "v1" in registry.manifests
    assert len([request for request in registry.requests if request.startswith("PATCH")]) >= 4
    registry.manifests.clear()
    registry.blobs.clear()
    registry.fault = _refuse_bodies(10_000)
    with pytest.raises(ResourceExhausted, match="413"):
        deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))


def test_a_piece_that_is_lost_is_gone_on_with_at_the_registrys_offset(
    registry: FakeRegistry, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pusher.chunked.CHUNK_BYTES", 50_000)
    pieces = []

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        if _refuse_bodies(100_000)(handler):
            return True
        if handler.command == "PATCH":
            pieces.append(handler.headers["Content-Range"])
            if len(pieces) == 2:
                handler.answer(503)  # type: ignore[attr-defined]
                return True
        return False

    registry.auth, registry.fault = "none", fault
    deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    assert "v1" in registry.manifests
    assert pieces[:3] == ["0-49999", "50000-99999", "50000-99999"]


def test_blobs_that_the_registry_collected_are_sent_again(registry: FakeRegistry, results: Path) -> None:
    collected = []

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        if handler.command == "PUT" and "/manifests/" in handler.path and not collected:
            collected.append(handler.path)
            registry.blobs.clear()
        return False

    registry.auth, registry.fault = "none", fault
    deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    assert "v1" in registry.manifests


def test_every_destination_gets_the_image_and_the_receipt_says_so(registry: FakeRegistry, results: Path) -> None:
    registry.auth = "none"
    places = [f"{registry.host}/a/b:v1", f"{registry.host}/c/d:v2", f"oci:{results}/layout:v3"]
    said = deliver_adapter(settings(results, places[0], OUTPUT_IMAGES=",".join(places[1:])))
    digest = said["image"].partition("@")[2]
    assert [entry["image"] for entry in said["images"]] == [f"{place}@{digest}" for place in places]
    receipt = json.loads((results / "push_receipt.json").read_text())
    assert [entry["image"] for entry in receipt["delivered"]] == [f"{place}@{digest}" for place in places]
    assert {"v1", "v2"} <= registry.manifests.keys()


def test_where_some_destinations_fail_the_error_says_which(registry: FakeRegistry, results: Path) -> None:
    registry.auth = "none"
    registry.fault = lambda handler: "/c/d/" in handler.path and not handler.answer(403)  # type: ignore[attr-defined]
    other = f"{registry.host}/c/d:v2"
    with pytest.raises(AccessDenied, match=rf"1 of 2 destinations failed: {other}: .*403.* \(done: .*/a/b:v1\)"):
        deliver_adapter(settings(results, f"{registry.host}/a/b:v1", OUTPUT_IMAGES=other, PUSH_PREFLIGHT="skip"))
    assert len(json.loads((results / "push_receipt.json").read_text())["delivered"]) == 1
    with pytest.raises(AccessDenied, match="1 of 2 destinations"):
        check_destination(settings(results, f"{registry.host}/a/b:v1", OUTPUT_IMAGES=other))


def test_no_destination_at_all_is_refused(results: Path) -> None:
    with pytest.raises(ConfigurationError, match="OUTPUT_IMAGE is not set"):
        check_destination(settings(results, ""))


@pytest.mark.parametrize("lists", [True, False])
def test_what_is_said_about_an_image_is_attached_to_it(registry: FakeRegistry, results: Path, lists: bool) -> None:
    registry.auth, registry.lists_referrers = "none", lists
    (results / "training_metrics.jsonl").write_text('{"step": 1}\n')
    (results / "label_report.json").write_text("{}")
    origin = {
        "base_model": {"name": "org/model", "digest": "sha256:b"},
        "dataset": {"files": [{"name": "x.jsonl", "url": "https://h/x", "sha256": "d"}]},
    }
    (results / "provenance.json").write_text(json.dumps(origin))
    image = f"{registry.host}/a/b:v1"
    said = deliver_adapter(settings(results, image))
    again = deliver_adapter(settings(results, image))
    digest = said["image"].rpartition("@")[2]
    assert said["image"] == again["image"]
    artifacts = [json.loads(body) for _, body in registry.manifests.values() if b'"subject"' in body]
    assert {artifact["subject"]["digest"] for artifact in artifacts} == {digest}
    assert {artifact["artifactType"] for artifact in artifacts} == {
        "application/vnd.kaito-tuning.metrics.v1+jsonl",
        "application/vnd.kaito-tuning.labels.v1+json",
        "application/vnd.in-toto+json",
    }
    statement = next(
        json.loads(registry.blobs[artifact["layers"][0]["digest"]])
        for artifact in artifacts
        if artifact["artifactType"] == "application/vnd.in-toto+json"
    )
    assert statement["subject"][0]["digest"]["sha256"] == digest.removeprefix("sha256:")
    inputs = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [entry["digest"] for entry in inputs] == [{"sha256": "b"}, {"sha256": "d"}]
    tag = digest.replace(":", "-")
    assert (tag in registry.manifests) is not lists
    if not lists:
        assert len(json.loads(registry.manifests[tag][1])["manifests"]) == 3


def test_referrers_can_be_left_out_and_never_fail_a_delivery(registry: FakeRegistry, results: Path) -> None:
    (results / "label_report.json").write_text("{}")
    registry.auth = "none"
    deliver_adapter(settings(results, f"{registry.host}/a/b:v1", PUSH_REFERRERS="false"))
    assert not any(b'"subject"' in body for _, body in registry.manifests.values())
    registry.fault = lambda handler: (
        handler.command == "PUT" and b'"artifactType"' in getattr(handler, "_body", b"") and not handler.answer(400)  # type: ignore[attr-defined]
    )
    assert deliver_adapter(settings(results, f"{registry.host}/a/b:v2"))["image"]
    assert "v2" in registry.manifests


@pytest.mark.parametrize("method", ["gzip", "zstd"])
def test_a_compressed_layer_unpacks_to_the_plain_one(registry: FakeRegistry, results: Path, method: str) -> None:
    registry.auth = "none"
    said = deliver_adapter(settings(results, f"{registry.host}/a/b:v1", LAYER_COMPRESSION=method))
    again = deliver_adapter(settings(results, f"{registry.host}/a/b:v1", LAYER_COMPRESSION=method))
    assert said["image"] == again["image"], "the same adapter gives the same digest"
    index = json.loads(registry.manifests["v1"][1])
    manifest = json.loads(registry.manifests[index["manifests"][0]["digest"]][1])
    config = json.loads(registry.blobs[manifest["config"]["digest"]])
    [layer] = manifest["layers"]
    assert layer["mediaType"].endswith(f"+{method}")
    packed = registry.blobs[layer["digest"]]
    plain = gzip.decompress(packed) if method == "gzip" else zstd.decompress(packed)
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(plain).hexdigest()]


def test_the_base_layer_is_below_the_adapter_where_it_is_at_hand(
    registry: FakeRegistry,
    results: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    registry.auth = "none"
    caplog.set_level("INFO")
    deliver_adapter(settings(results, f"{registry.host}/a/b:bare"))
    assert "no base layer is at hand" in caplog.text
    for architecture in ("amd64", "arm64"):
        (tmp_path / f"base-{architecture}.tar").write_bytes(architecture.encode() * 512)
    monkeypatch.setattr("pusher.base.bundled_base.__defaults__", (tmp_path,))
    deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    deliver_adapter(settings(results, f"{registry.host}/a/b:scratch", BASE_IMAGE="scratch"))

    def stacks(tag: str) -> list[list[str]]:
        index = json.loads(registry.manifests[tag][1])
        manifests = [json.loads(registry.manifests[entry["digest"]][1]) for entry in index["manifests"]]
        return [[layer["digest"] for layer in manifest["layers"]] for manifest in manifests]

    amd64, arm64 = stacks("v1")
    assert len(amd64) == len(arm64) == 2
    assert amd64[0] != arm64[0], "each architecture has its own base"
    assert amd64[1] == arm64[1], "and both the same adapter"
    assert stacks("scratch") == stacks("bare") == [[amd64[1]], [amd64[1]]]


def test_a_registry_that_cannot_be_reached_is_transient(results: Path) -> None:
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:1 cannot be reached"):
        deliver_adapter(settings(results, "127.0.0.1:1/a/b:v1", PUSH_DEADLINE_SECONDS="0.01", PUSH_PREFLIGHT="skip"))


def test_a_failed_training_is_named_with_its_cause(results: Path) -> None:
    announce(results, Failed("run", 65, "DatasetError", "x.jsonl line 12 is not JSON", "fix it"))
    with pytest.raises(TrainingFailed) as caught:
        deliver_adapter(settings(results, f"oci:{results}/image:v1"))
    assert "65 DatasetError: x.jsonl line 12 is not JSON" in caught.value.message
    assert caught.value.hint == "fix it"
    assert not (results / "image").exists()


def test_an_adapter_that_differs_from_what_was_announced_is_not_pushed(results: Path) -> None:
    (results / "adapter_model.safetensors").write_bytes(bytes(200_000))
    with pytest.raises(TrainingFailed, match="has sha256"):
        deliver_adapter(settings(results, f"oci:{results}/image:v1"))
    assert not (results / "image").exists()


def test_an_outcome_of_an_earlier_attempt_is_not_pushed(results: Path) -> None:
    late = settings(results, f"oci:{results}/image:v1", TUNING_RUN_ID="another", TRAINER_START_TIMEOUT_SECONDS="0.05")
    with pytest.raises(TrainingFailed, match="no sign of life"):
        deliver_adapter(late)
    assert not (results / "image").exists()


@pytest.mark.parametrize("image", ["r.example.com/UPPER:1", "https://r.example.com/a", "oci:x"])
def test_a_malformed_destination_is_a_configuration_error(results: Path, image: str) -> None:
    with pytest.raises(ConfigurationError, match="OUTPUT_IMAGE"):
        deliver_adapter(settings(results, image))


def test_a_results_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="the results folder"):
        deliver_adapter(settings(tmp_path / "no", f"oci:{tmp_path}/image:v1"))


def test_a_registry_that_ignores_the_offset_of_a_piece_is_found_out(
    registry: FakeRegistry, results: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes the second piece, says that it has not, and appends it again: another blob, which is sent anew."""
    monkeypatch.setattr("pusher.chunked.CHUNK_BYTES", 50_000)
    pieces: list[str] = []

    def fault(handler: BaseHTTPRequestHandler) -> bool:
        if _refuse_bodies(100_000)(handler):
            return True
        session = handler.path.rpartition("/")[2].partition("?")[0]
        if handler.command == "PATCH" and len(pieces) < 2:
            pieces.append(session)
            registry.sessions[session] += handler._body  # type: ignore[attr-defined]
            answer = {"Range": f"0-{len(registry.sessions[session]) - 1}"} if len(pieces) == 1 else {}
            handler.answer(202 if len(pieces) == 1 else 503, **answer)  # type: ignore[attr-defined]
            return True
        if handler.command == "GET" and session in pieces:
            handler.answer(204, Range="0-49999")  # type: ignore[attr-defined]
            return True
        if handler.command == "PATCH" and session in pieces:
            registry.sessions[session] += handler._body  # type: ignore[attr-defined]
            handler.answer(202)  # type: ignore[attr-defined]
            return True
        return False

    registry.auth, registry.fault = "none", fault
    with caplog.at_level("WARNING"):
        deliver_adapter(settings(results, f"{registry.host}/a/b:v1"))
    assert "DIGEST_INVALID" in caplog.text
    assert "v1" in registry.manifests


def test_credentials_that_have_ended_are_refused_before_anything_is_asked(
    registry: FakeRegistry, results: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def token(ends: float) -> str:
        claims = base64.urlsafe_b64encode(json.dumps({"exp": ends}).encode()).decode().rstrip("=")
        return f"e30.{claims}.signature"

    def write(entry: dict[str, str]) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: entry}}))

    write({"identitytoken": token(1_700_000_000)})
    with pytest.raises(AccessDenied) as caught:
        check_destination(settings(results, f"{registry.host}/a/b:v1", tmp_path))
    assert f"the credentials for {registry.host} ended at 2023-11-14 22:13 UTC" in str(caught.value)
    assert not registry.requests
    registry.auth = "none"
    write({"username": "u", "password": token(time.time() + 600)})
    with caplog.at_level("WARNING"):
        check_destination(settings(results, f"{registry.host}/a/b:v1", tmp_path))
    assert "the credentials end soon" in caplog.text
    assert "signature" not in caplog.text


def test_the_next_credentials_are_tried_where_the_first_are_refused(
    registry: FakeRegistry, results: Path, tmp_path: Path
) -> None:
    registry.write_config(tmp_path, "wrong")
    (tmp_path / "config.d").mkdir()
    registry.write_config(tmp_path / "config.d")
    for auth in ("basic", "bearer"):
        registry.auth = auth
        deliver_adapter(settings(results, f"{registry.host}/a/{auth}:v1", tmp_path))
    assert "v1" in registry.manifests
