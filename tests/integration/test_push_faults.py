"""What can happen between the pusher and a registry, with a faulty proxy before a real registry."""

import base64
import hashlib
import json
import os
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.support.adapters import NAMES, new_results
from tests.support.apps import Done, run_app
from tests.support.proxy import Exchange, FaultyProxy
from tests.support.real_registry import RealRegistry, secret

MIB = 1 << 20


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealRegistry]:
    with RealRegistry(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def proxy(real: RealRegistry) -> Iterator[FaultyProxy]:
    with FaultyProxy(real.host) as proxy:
        yield proxy


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return new_results(tmp_path / "results", 3 * MIB)


def push(proxy: FaultyProxy, results: Path, *arguments: str, **variables: str) -> Done:
    """Run the pusher against the proxy as the process that it is."""
    config = secret(results.parent / "secret", proxy.host, "ci-pass")
    name = results.parent.name.lower().rstrip("_")
    given = {
        "OUTPUT_IMAGE": f"{proxy.host}/adapters/{name}:v1",
        "DOCKER_CONFIG": str(config),
        "RESULTS_PATH": str(results),
        "PUSH_DEADLINE_SECONDS": "60",
        **variables,
    }
    return run_app("pusher", results.parent, *arguments, **given)


def assert_arrived(done: Done, real: RealRegistry, proxy: FaultyProxy, results: Path) -> None:
    """The image is whole: read from the registry itself, by another client."""
    assert done.exit_code == 0, done.log
    # skopeo takes a tag or a digest, not both.
    image = done.message["image"].replace(proxy.host, real.host).replace(":v1@", "@")
    folder = results.parent / "read-back"
    login = ["--src-tls-verify=false", "--src-creds=ci:ci-pass"]
    subprocess.run(["skopeo", "copy", "-q", *login, f"docker://{image}", f"dir:{folder}"], check=True)
    [layer] = json.loads((folder / "manifest.json").read_text())["layers"]
    content = (folder / layer["digest"].removeprefix("sha256:")).read_bytes()
    assert (results / NAMES[1]).read_bytes() in content


def is_large_put(exchange: Exchange) -> bool:
    return exchange.command == "PUT" and exchange.length > MIB


@pytest.mark.parametrize("seed", range(4))
def test_an_upload_reset_at_a_random_byte_is_sent_again(
    real: RealRegistry, proxy: FaultyProxy, results: Path, seed: int
) -> None:
    chance = random.Random(seed)
    offsets: list[int] = []

    def reset(exchange: Exchange) -> bool:
        if is_large_put(exchange) and len(offsets) < 2:
            exchange.reset_after = chance.randrange(1, exchange.length)
            offsets.append(exchange.reset_after)
        return False

    proxy.fault = reset
    done = push(proxy, results)
    assert_arrived(done, real, proxy, results)
    assert len(offsets) == 2


def _date_in(seconds: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (500, dict),
        (502, dict),
        (503, lambda: {"Retry-After": "1"}),
        (429, lambda: {"Retry-After": "2"}),
        (429, lambda: {"Retry-After": _date_in(2)}),
    ],
    ids=["500", "502", "503", "429-seconds", "429-date"],
)
def test_an_answer_that_passes_is_waited_for(
    real: RealRegistry, proxy: FaultyProxy, results: Path, status: int, headers: Callable[[], dict[str, str]]
) -> None:
    """One such answer to each kind of request: the start, the body, the manifests, the tag."""
    seen: set[tuple[str, str]] = set()

    def fault(exchange: Exchange) -> bool:
        kind = (exchange.command, exchange.path.split("/")[4])
        if kind in seen or exchange.command not in {"PUT", "POST"}:
            return False
        seen.add(kind)
        return exchange.refuse(status, b"upstream trouble", headers())

    proxy.fault = fault
    started = time.monotonic()
    done = push(proxy, results, PUSH_PREFLIGHT="skip")
    assert_arrived(done, real, proxy, results)
    assert seen == {("POST", "blobs"), ("PUT", "blobs"), ("PUT", "manifests")}
    if status == 429:
        assert time.monotonic() - started > 3, "three times two seconds were asked for; a date has whole seconds"


def test_a_token_that_expires_in_mid_upload_is_renewed(real: RealRegistry, proxy: FaultyProxy, results: Path) -> None:
    """The proxy asks for bearer tokens, each good for three requests, and passes on as the user of the registry."""
    basic = "Basic " + base64.b64encode(b"ci:ci-pass").decode()
    left: dict[str, int] = {}

    def gate(exchange: Exchange) -> bool:
        if exchange.path.startswith("/token"):
            assert exchange.headers["Authorization"] == basic
            [scope] = parse_qs(urlsplit(exchange.path).query)["scope"]
            assert scope.endswith(":pull,push")
            token = f"token-{len(left)}"
            left[token] = 3
            return exchange.refuse(200, json.dumps({"token": token, "expires_in": 60}).encode())
        token = exchange.headers.get("Authorization", "").removeprefix("Bearer ")
        if not left.get(token):
            challenge = f'Bearer realm="http://{proxy.host}/token",service="ci",error="invalid_token"'
            return exchange.refuse(401, b"{}", {"WWW-Authenticate": challenge})
        left[token] -= 1
        exchange.headers.replace_header("Authorization", basic)
        if exchange.command == "PUT" and exchange.length > MIB:
            # A body that is too large for one request: the upload goes on in pieces, over several tokens.
            return exchange.refuse(413, b"too large") if exchange.length == exchange_length(results) else False
        return False

    proxy.fault = gate
    done = push(proxy, results)
    assert_arrived(done, real, proxy, results)
    assert len(left) > 3
    assert "token-" not in done.log


def exchange_length(results: Path) -> int:
    """The bytes of the data layer, in a tar's records."""
    sizes = [(results / name).stat().st_size for name in NAMES]
    total = 512 + sum(512 + size + -size % 512 for size in sizes) + 1024
    return total + -total % 10240


@pytest.mark.timeout(180)
def test_a_registry_restarted_in_mid_upload_gets_all_of_it(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    results = new_results(tmp_path / "results", 8 * MIB)
    with RealRegistry(tmp_path / "registry") as real, FaultyProxy(real.host) as proxy:
        restarted = threading.Event()

        def restart(exchange: Exchange) -> bool:
            if is_large_put(exchange) and not restarted.is_set():
                blocks = iter(range(1000))

                def between() -> None:
                    if next(blocks) == 20:
                        restarted.set()
                        real.stop()
                        threading.Timer(2.0, real.start).start()

                exchange.between = between
            return False

        proxy.fault = restart
        done = push(proxy, results)
        assert restarted.is_set()
        assert_arrived(done, real, proxy, results)


def test_a_slow_registry_is_waited_for(real: RealRegistry, proxy: FaultyProxy, results: Path) -> None:
    def slow(exchange: Exchange) -> bool:
        exchange.between = lambda: time.sleep(0.05)
        return False

    proxy.fault = slow
    assert_arrived(push(proxy, results), real, proxy, results)


def test_a_piece_that_is_lost_after_it_arrived_does_no_harm(
    real: RealRegistry, proxy: FaultyProxy, results: Path
) -> None:
    """The registry has the piece, the answer to it says 500: this registry's session is dead, another one is begun."""
    lost: list[str] = []

    def fault(exchange: Exchange) -> bool:
        if exchange.command == "PUT" and exchange.length == exchange_length(results):
            return exchange.refuse(413, b"too large")
        if exchange.command == "PATCH" and not lost:
            lost.append(exchange.path)
            exchange.change_answer = lambda *_: (500, b"lost", {})
        return False

    proxy.fault = fault
    assert_arrived(push(proxy, results), real, proxy, results)
    assert lost


def test_bytes_that_are_changed_on_their_way_end_the_push(proxy: FaultyProxy, results: Path) -> None:
    def fault(exchange: Exchange) -> bool:
        if exchange.command == "PUT" and "/blobs/" in exchange.path:
            exchange.rfile.read(exchange.length)
            words = {"errors": [{"code": "DIGEST_INVALID", "message": "provided digest did not match"}]}
            exchange.answer(400, json.dumps(words).encode())
            return True
        return False

    proxy.fault = fault
    done = push(proxy, results)
    assert done.exit_code == 75, done.log
    assert "DIGEST_INVALID: provided digest did not match, 3 times" in done.message["message"]
    assert "changes what passes" in done.message["hint"]


def test_a_registry_that_serves_other_bytes_is_found_out(proxy: FaultyProxy, results: Path) -> None:
    def fault(exchange: Exchange) -> bool:
        if exchange.command == "GET" and "/manifests/" in exchange.path:
            exchange.change_answer = lambda status, body, headers: (status, body.replace(b"amd64", b"arm64"), headers)
        return False

    proxy.fault = fault
    done = push(proxy, results)
    assert done.exit_code == 75, done.log
    assert "serves other bytes than were pushed" in done.message["message"]
    assert not (results / "push_receipt.json").exists()


@pytest.mark.parametrize("status", [500, 507])
def test_a_full_registry_is_tried_until_the_deadline_and_the_adapter_kept(
    proxy: FaultyProxy, results: Path, status: int
) -> None:
    before = {name: hashlib.sha256((results / name).read_bytes()).hexdigest() for name in NAMES}

    def fault(exchange: Exchange) -> bool:
        if exchange.command != "PUT":
            return False
        words = {"errors": [{"code": "UNKNOWN", "message": "unknown error: no space left on device"}]}
        return exchange.refuse(status, json.dumps(words).encode())

    proxy.fault = fault
    done = push(proxy, results, PUSH_DEADLINE_SECONDS="3")
    assert done.exit_code == 75, done.log
    assert "no space left on device" in done.message["message"]
    assert {name: hashlib.sha256((results / name).read_bytes()).hexdigest() for name in NAMES} == before


def test_credentials_that_were_renewed_in_the_secret_are_used(
    real: RealRegistry, proxy: FaultyProxy, results: Path
) -> None:
    """The secret that kubelet mounted changes after the pusher began; the old password is refused from then on."""
    config = results.parent / "secret"
    old = "Basic " + base64.b64encode(b"ci:old-pass").decode()
    new = "Basic " + base64.b64encode(b"ci:ci-pass").decode()

    def fault(exchange: Exchange) -> bool:
        authorization = exchange.headers.get("Authorization", "")
        if exchange.command == "HEAD" and authorization == old:
            secret(config, proxy.host, "ci-pass")
        elif authorization == old:
            exchange.headers.replace_header("Authorization", new)
        return False

    proxy.fault = fault
    secret(config, proxy.host, "old-pass")
    variables = {"OUTPUT_IMAGE": f"{proxy.host}/adapters/renewed:v1", "DOCKER_CONFIG": str(config)}
    done = run_app("pusher", results.parent, **variables, RESULTS_PATH=str(results))
    assert "trying other credentials" in done.log
    assert_arrived(done, real, proxy, results)


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subject = ["-subj", "/CN=registry", "-addext", f"subjectAltName=DNS:{name}"]
    line = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*line, "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True)
    return certificate, key


def test_a_certificate_of_a_private_authority_needs_that_authority(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    results = new_results(tmp_path / "results", MIB)
    # A name that is not plainly the loopback address, or the pusher would speak plain HTTP.
    name = os.uname().nodename
    certificate, key = _certificate(tmp_path, name)
    with RealRegistry(tmp_path / "registry", tls=(certificate, key), address=name) as real:
        config = secret(tmp_path / "secret", real.host, "ci-pass")
        variables = {
            "OUTPUT_IMAGE": f"{real.host}/adapters/tls:v1",
            "DOCKER_CONFIG": str(config),
            "RESULTS_PATH": str(results),
        }
        refused = run_app("pusher", tmp_path, "preflight", **variables)
        assert refused.exit_code == 78, refused.log
        assert f"the TLS certificate of {real.host} is not trusted" in refused.message["message"]
        assert "REQUESTS_CA_BUNDLE" in refused.message["hint"]
        done = run_app("pusher", tmp_path, **variables, REQUESTS_CA_BUNDLE=str(certificate))
        assert done.exit_code == 0, done.log


def test_plain_http_is_spoken_to_a_listed_registry_only(tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    results = new_results(tmp_path / "results", MIB)
    with RealRegistry(tmp_path / "registry", address=os.uname().nodename) as real:
        config = secret(tmp_path / "secret", real.host, "ci-pass")
        variables = {
            "OUTPUT_IMAGE": f"{real.host}/adapters/plain:v1",
            "DOCKER_CONFIG": str(config),
            "RESULTS_PATH": str(results),
            "PUSH_DEADLINE_SECONDS": "2",
        }
        refused = run_app("pusher", tmp_path, "preflight", **variables)
        assert refused.exit_code == 78, refused.log
        assert "PLAIN_HTTP_REGISTRIES" in refused.message["hint"]
        done = run_app("pusher", tmp_path, **variables, PLAIN_HTTP_REGISTRIES=f"other:5000 {real.host}")
        assert done.exit_code == 0, done.log
