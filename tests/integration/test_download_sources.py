"""Where a dataset may come from, and who we are to whom."""

import gzip
import hashlib
import io
import json
import shutil
import ssl
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests.support.registry import FakeRegistry
from tests.support.web import Web, content, redirect

from data_downloader import progress
from data_downloader.dataset import download_dataset
from data_downloader.peers import refuse_address
from data_downloader.progress import Progress, Standing
from data_downloader.settings import Settings
from tuning.environment import read_settings
from tuning.errors import AccessDenied, ConfigurationError, DatasetError, InputNotFound
from tuning.provenance import read_manifest

ROWS = b'{"text": "a row"}\n' * 500
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuning.retry._backoff", lambda _: 0.02)


def download(folder: Path, *urls: str, **environ: str) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    variables = {"DATA_URLS": " ".join(urls), "DATA_VOLUME_PATH": str(folder), "DOWNLOAD_ATTEMPTS": "2", **environ}
    download_dataset(read_settings(Settings, variables))
    found = (path for path in folder.rglob("*") if path.is_file() and ".download" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# Who we are to whom


def test_a_bearer_token_goes_to_its_host_and_no_other(web: Web, tmp_path: Path) -> None:
    start = web.serve("/x.jsonl", content(b"", status=404))
    port = start.split(":")[2].split("/")[0]
    web.serve("/x.jsonl", redirect(f"http://localhost:{port}/y.jsonl"))
    web.serve("/y.jsonl", content(ROWS))
    tokens = tmp_path / "tokens"
    tokens.mkdir()
    (tokens / f"127.0.0.1:{port}").write_text("t0ken\n")
    assert download(tmp_path / "data", start, DATA_TOKENS_PATH=str(tokens)) == {"x.jsonl": ROWS}
    assert [asked.headers.get("Authorization") for asked in web.asked] == ["Bearer t0ken", None]


def test_a_login_in_the_url_goes_to_its_origin_and_is_nowhere_written(web: Web, tmp_path: Path) -> None:
    url = web.serve("/x.jsonl", content(ROWS)).replace("://", "://user:p%40ss@")
    download(tmp_path / "data", url)
    assert web.asked[0].headers["Authorization"] == "Basic dXNlcjpwQHNz"
    assert "p@ss" not in (manifest := (tmp_path / "data/.download/manifest").read_text())
    assert "p%40ss" not in manifest


def test_a_netrc_is_used_for_its_host(web: Web, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login user password s3cret\n")
    download(tmp_path / "data", web.serve("/x.jsonl", content(ROWS)), NETRC=str(tmp_path / "netrc"))
    assert web.asked[0].headers["Authorization"].startswith("Basic ")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 password\n  s3cret oops")
    with pytest.raises(ConfigurationError, match="is not a netrc file") as caught:
        download(tmp_path / "data", web.serve("/x.jsonl", content(ROWS)), NETRC=str(tmp_path / "netrc"))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["DATA_TOKENS_PATH", "NETRC", "HF_TOKEN_PATH", "REQUESTS_CA_BUNDLE"])
def test_a_secret_that_is_not_mounted_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError, match="/no/such"):
        download(tmp_path / "data", "https://127.0.0.1:1/x", **{name: "/no/such"})


def test_the_usual_proxy_variables_are_honoured(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = web.serve("http://data.example.com/x.jsonl", content(ROWS)).partition("http://data")[0]
    monkeypatch.setenv("http_proxy", proxy)
    monkeypatch.setenv("no_proxy", "")
    assert download(tmp_path / "data", "http://data.example.com/x.jsonl") == {"x.jsonl": ROWS}
    with pytest.raises(AccessDenied, match="link-local"):
        download(tmp_path / "data", "http://169.254.169.254/x.jsonl")


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "fe80::1%eth0", "224.0.0.1", "0.0.0.0", "::", "::ffff:169.254.169.254", "fd00:ec2::254"],
)
def test_a_link_local_address_is_refused(address: str) -> None:
    with pytest.raises(AccessDenied, match="link-local"):
        refuse_address(address)


@pytest.mark.parametrize("address", ["10.0.0.1", "192.168.1.1", "127.0.0.1", "::1", "93.184.216.34", "fd12::1"])
def test_private_addresses_are_ordinary_inside_a_cluster(address: str) -> None:
    refuse_address(address)


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[str, Path, Path]]:
    """An https server with a certificate of its own authority: its URL, the certificate, and the served folder."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    certificate, key, folder = tmp_path / "ca.pem", tmp_path / "key.pem", tmp_path / "served"
    folder.mkdir()
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)

    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))  # type: ignore[arg-type]

        def do_GET(self) -> None:
            if self.path == "/down.jsonl":
                self.send_response(302)
                self.send_header("Location", "http://localhost:1/x.jsonl")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                super().do_GET()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://localhost:{server.server_port}", certificate, folder
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_private_authority_is_trusted_when_it_is_given(secure: tuple[str, Path, Path], tmp_path: Path) -> None:
    url, certificate, folder = secure
    (folder / "x.jsonl").write_bytes(ROWS)
    with pytest.raises(AccessDenied, match="certificate is not trusted") as caught:
        download(tmp_path / "data", f"{url}/x.jsonl")
    assert "REQUESTS_CA_BUNDLE" in caught.value.hint
    for name in ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"):
        assert download(tmp_path / name, f"{url}/x.jsonl", **{name: str(certificate)}) == {"x.jsonl": ROWS}
    other = url.replace("localhost", "127.0.0.1")
    with pytest.raises(AccessDenied, match="certificate is not trusted"):
        download(tmp_path / "data", f"{other}/x.jsonl", REQUESTS_CA_BUNDLE=str(certificate))


def test_https_never_falls_to_http(secure: tuple[str, Path, Path], tmp_path: Path) -> None:
    url, certificate, _ = secure
    with pytest.raises(AccessDenied, match="redirected from https to http"):
        download(tmp_path / "data", f"{url}/down.jsonl", REQUESTS_CA_BUNDLE=str(certificate))


# Where a dataset may come from


def _hub(web: Web) -> str:
    endpoint = web.serve("/api/datasets/org/name/revision/v1", content(json.dumps({"sha": COMMIT}).encode()))
    endpoint = endpoint.partition("/api/")[0]
    entries = [{"type": "file", "path": name} for name in ("data/b.jsonl", "data/a.jsonl", "README.md")]
    web.serve(f"/api/datasets/org/name/tree/{COMMIT}/data", content(json.dumps(entries).encode()))
    web.serve(f"/api/datasets/org/name/tree/{COMMIT}/none", content(b"[]"))
    digest = hashlib.sha256(ROWS).hexdigest()
    storage = redirect("/storage/1?sig=s3cret", X_Linked_Etag=f'"{digest}"', X_Repo_Commit=COMMIT)
    for name in ("a", "b"):
        web.serve(f"/datasets/org/name/resolve/{COMMIT}/data/{name}.jsonl", storage)
    web.serve("/storage/1", content(ROWS, ETag='"x"'))
    return endpoint


def test_a_file_of_the_hub_is_fetched_at_its_commit(web: Web, tmp_path: Path) -> None:
    endpoint = _hub(web)
    (tmp_path / "token").write_text("hf_t0ken")
    found = download(
        tmp_path / "data",
        "hf://datasets/org/name@v1/data/a.jsonl",
        HF_ENDPOINT=endpoint,
        HF_TOKEN_PATH=str(tmp_path / "token"),
    )
    assert found == {"a.jsonl": ROWS}
    assert {asked.headers.get("Authorization") for asked in web.asked} == {"Bearer hf_t0ken"}
    assert any(COMMIT in asked.path for asked in web.asked)


def test_a_hub_that_is_busy_is_asked_again(web: Web, tmp_path: Path) -> None:
    endpoint = _hub(web)
    web.answers["/api/datasets/org/name/revision/v1"].insert(0, content(b"", status=503))
    found = download(tmp_path / "data", "hf://datasets/org/name@v1/data/a.jsonl", HF_ENDPOINT=endpoint)
    assert found == {"a.jsonl": ROWS}


def test_a_folder_of_the_hub_is_all_its_data_files(web: Web, tmp_path: Path) -> None:
    endpoint = _hub(web)
    found = download(tmp_path / "data", "hf://datasets/org/name@v1/data/", HF_ENDPOINT=endpoint)
    assert found == {"a.jsonl": ROWS, "b.jsonl": ROWS}


def test_bytes_that_differ_from_the_hubs_digest_are_refused(web: Web, tmp_path: Path) -> None:
    endpoint = _hub(web)
    web.serve("/storage/1", content(ROWS[:-18], ETag='"x"'))
    with pytest.raises(DatasetError, match="the server promised"):
        download(tmp_path / "data", "hf://datasets/org/name@v1/data/a.jsonl", HF_ENDPOINT=endpoint)


@pytest.mark.parametrize(
    ("url", "cause", "said"),
    [
        ("hf://datasets/org", ConfigurationError, "is not a dataset of the hub"),
        ("hf://models/org/name/x", ConfigurationError, "is not a dataset of the hub"),
        ("hf://datasets/org/name@v2/x", InputNotFound, "answered 404"),
        ("hf://datasets/org/name@v1/none/", InputNotFound, "has no dataset file"),
    ],
)
def test_what_the_hub_does_not_have_is_named(
    web: Web, tmp_path: Path, url: str, cause: type[Exception], said: str
) -> None:
    with pytest.raises(cause, match=said):
        download(tmp_path / "data", url, HF_ENDPOINT=_hub(web))


def _layer(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            archive.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def _push(registry: FakeRegistry, *layers: tuple[bytes, str]) -> None:
    described = []
    for body, media_type in layers:
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        registry.blobs[digest] = body
        described.append({"mediaType": media_type, "digest": digest, "size": len(body)})
    manifest = json.dumps({"schemaVersion": 2, "layers": described}).encode()
    digest = "sha256:" + hashlib.sha256(manifest).hexdigest()
    registry.manifests[digest] = ("application/vnd.oci.image.manifest.v1+json", manifest)
    index = json.dumps({"manifests": [{"digest": digest, "platform": {"os": "linux", "architecture": "amd64"}}]})
    registry.manifests["v1"] = ("application/vnd.oci.image.index.v1+json", index.encode())


TAR = "application/vnd.oci.image.layer.v1.tar"


@pytest.mark.parametrize("auth", ["none", "basic", "bearer"])
def test_a_dataset_image_is_its_data_folder(registry: FakeRegistry, tmp_path: Path, auth: str) -> None:
    from backports import zstd

    registry.auth = auth
    _push(
        registry,
        (_layer({"bin/sh": b"x", "data/a.jsonl": b"old\n", "data/gone.jsonl": ROWS}), TAR),
        (gzip.compress(_layer({"data/a.jsonl": ROWS, "data/.wh.gone.jsonl": b""})), TAR + "+gzip"),
        (zstd.compress(_layer({"./data/sub/b.jsonl": ROWS})), TAR + "+zstd"),
    )
    config = registry.write_config(tmp_path)
    found = download(tmp_path / "data", f"oci://{registry.host}/team/set:v1", DOCKER_CONFIG=str(config))
    assert found == {"a.jsonl": ROWS, "sub/b.jsonl": ROWS}
    manifest = read_manifest(tmp_path / "data")
    assert manifest is not None
    assert [file.name for file in manifest.files] == ["a.jsonl", "sub/b.jsonl"]
    assert all(file.url.startswith(f"oci://{registry.host}/team/set:v1") for file in manifest.files)


def test_an_image_that_cannot_be_a_dataset_is_refused(registry: FakeRegistry, tmp_path: Path) -> None:
    registry.auth = "none"
    _push(registry, (_layer({"etc/x": b"x"}), TAR))
    with pytest.raises(DatasetError, match="has nothing in /data"):
        download(tmp_path / "data", f"oci://{registry.host}/team/set:v1")
    _push(registry, (_layer({"data/../../x": b"x"}), TAR))
    with pytest.raises(DatasetError, match="would leave the data folder"):
        download(tmp_path / "data", f"oci://{registry.host}/team/set:v1")
    with pytest.raises(InputNotFound, match="MANIFEST_UNKNOWN"):
        download(tmp_path / "data", f"oci://{registry.host}/team/set:v2")
    with pytest.raises(ConfigurationError, match="names no image"):
        download(tmp_path / "data", f"oci://{registry.host}/Team/set:v1")


def test_a_registry_that_refuses_is_named(registry: FakeRegistry, tmp_path: Path) -> None:
    _push(registry, (_layer({"data/a.jsonl": ROWS}), TAR))
    config = registry.write_config(tmp_path, password="wr0ng-pass")
    with pytest.raises(AccessDenied, match="answered 401") as caught:
        download(tmp_path / "data", f"oci://{registry.host}/team/set:v1", DOCKER_CONFIG=str(config))
    assert "wr0ng-pass" not in caught.value.message


def test_an_archive_is_unpacked_when_asked(web: Web, tmp_path: Path) -> None:
    body = gzip.compress(_layer({"a.jsonl": ROWS, "sub/a.jsonl": ROWS}))
    url = web.serve("/set.tar.gz", content(body))
    assert download(tmp_path / "one", f"{url}#unpack") == {"a.jsonl": ROWS, "sub/a.jsonl": ROWS}
    assert download(tmp_path / "two", url) == {"set.tar.gz": body}
    manifest = read_manifest(tmp_path / "one")
    assert manifest is not None
    assert [file.name for file in manifest.files] == ["a.jsonl", "sub/a.jsonl"]


@pytest.fixture(scope="module")
def object_store() -> Iterator[str]:
    """A local S3 server (moto), from an environment of its own: its dependencies contradict the trainer's."""
    program = Path(__file__).parents[2] / ".venv-moto" / "bin" / "moto_server"
    if not program.is_file():
        pytest.skip("there is no local S3 server (`make .venv-moto` installs one)")
    pytest.importorskip("obstore", reason="the extra `object-stores` is not installed")
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL) as process:
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            threading.Event().wait(0.1)
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def test_an_object_of_a_store_is_fetched(object_store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import requests

    body = ROWS * 3000
    requests.put(f"{object_store}/bucket", timeout=10).raise_for_status()
    requests.put(f"{object_store}/bucket/sets/train.jsonl", data=body, timeout=30).raise_for_status()
    for name, value in {
        "AWS_ENDPOINT_URL": object_store,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    assert download(tmp_path / "data", "s3://bucket/sets/train.jsonl") == {"train.jsonl": body}
    manifest = read_manifest(tmp_path / "data")
    assert manifest is not None
    assert manifest.files[0].etag
    with pytest.raises(InputNotFound, match="is not in the store"):
        download(tmp_path / "data", "s3://bucket/sets/no.jsonl")
    with pytest.raises(DatasetError, match="5 were expected"):
        download(tmp_path / "data", "s3://bucket/sets/train.jsonl#size=5")


def test_without_its_library_an_object_store_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigurationError, match="this image cannot read s3://"):
        download(tmp_path / "data", "s3://bucket/x.jsonl")


# What a person sees


def test_a_terminal_shows_a_live_bar_and_a_log_does_not() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    standing = Standing(1, 2, 512 << 20, 1 << 30)
    terminal = Terminal()
    bar = Progress(lambda: standing, 10, terminal)
    bar.look()
    bar.end()
    assert "[############............] files=1/2 50% bytes=512.0 MiB/1.0 GiB" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    plain = io.StringIO()
    log = Progress(lambda: standing, 10, plain)
    log.look()
    log.end()
    assert plain.getvalue() == ""


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3072.0 GiB")]
)
def test_sizes_are_readable(size: int, text: str) -> None:
    assert progress.readable(size) == text
