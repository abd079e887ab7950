"""How fast does the adapter reach a registry, beside the original's steps and a usual tool? One table, all in this run.

    .venv/bin/python -m benchmarks.push [--mib 1024] [--rounds 2]

Needs Debian's docker-registry and skopeo, and oras and a Docker engine (see tests/support/docker-engine). Weights
(normal numbers in bf16) go to a registry on the loopback address; each round pushes others. The original's steps are
re-created: cp, tar, sha256sum, gzip -9, a push of what came out. skopeo gets an OCI layout,
oras a tar, and their times include making it, as a pusher would have to. The engine's own work is
not in the client's processor seconds and bytes. `first byte` is from the sentinel to the first byte of the weights that
reaches the registry.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy

from benchmarks.page import write_page
from tuning.outcome import Completed, announce, describe_files

FOLDER = Path("/var/tmp/kaito-tuning-benchmark-push")
MIB = 1 << 20
NAMES = ["adapter_config.json", "adapter_model.safetensors"]


@dataclass(frozen=True)
class Result:
    """What one push took: wall and processor seconds of the client, its peak memory, and what it wrote to disk."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    written_bytes: int


@contextmanager
def registry() -> Iterator[str]:
    """A distribution registry on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(FOLDER / "registry")}},
        "http": {"addr": address},
    }
    (FOLDER / "registry.yml").write_text(json.dumps(settings))
    command = ["docker-registry", "serve", str(FOLDER / "registry.yml")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 20
        host, port = address.split(":")
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    break
            time.sleep(0.05)
        try:
            yield address
        finally:
            process.terminate()


def new_adapter(size: int) -> Path:
    """An adapter of random weights that no registry has seen, announced as the trainer does."""
    results = FOLDER / "results"
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    (results / NAMES[0]).write_text('{"r": 8}')
    with (results / NAMES[1]).open("wb") as stream:
        generator = numpy.random.default_rng()
        for _ in range(size // MIB):
            numbers = generator.standard_normal(MIB // 2, dtype=numpy.float32) * 0.02
            # The upper half of a float32 is the bf16 next to it.
            stream.write((numbers.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes())
    announce(results, Completed("", describe_files(results, NAMES), "org/model", 1, {}, "", "lora"))
    return results


def measure(commands: Sequence[Sequence[str]], variables: Mapping[str, str] | None = None) -> Result:
    """Run `commands` one after the other."""
    start, cpu, peak, written = time.monotonic(), 0.0, 0, 0
    for command in commands:
        process = subprocess.Popen(
            command, env={**os.environ, **(variables or {})}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        said = process.stderr.read()
        # The process has ended but is not gone yet: what it wrote can still be read.
        written += _written(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{command[0]}: {said.decode()[-2000:]}")
        cpu += usage.ru_utime + usage.ru_stime
        peak = max(peak, usage.ru_maxrss * 1024)
    return Result(time.monotonic() - start, cpu, peak, written)


def _written(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def ours(results: Path, address: str, number: int) -> Result:
    """The pusher as the process it is."""
    return measure(
        [[sys.executable, "-m", "pusher"]],
        {"OUTPUT_IMAGE": f"{address}/ours/adapter:v{number}", "RESULTS_PATH": str(results)},
    )


def _layout(results: Path, number: int, *, packed: bool) -> tuple[list[list[str]], Path]:
    """The commands that make an OCI layout as the original does, and its folder."""
    work = FOLDER / f"layout-{number}-{packed}"
    shutil.rmtree(work, ignore_errors=True)
    (work / "data").mkdir(parents=True)
    steps = [
        ["cp", *(str(results / name) for name in NAMES), str(work / "data")],
        ["tar", "-C", str(work), "-cf", str(work / "layer.tar"), "data"],
        ["sha256sum", str(work / "layer.tar")],
    ]
    if packed:
        steps.append(["gzip", "-9", "-k", str(work / "layer.tar")])
    layer = work / ("layer.tar.gz" if packed else "layer.tar")
    steps.append([sys.executable, "-m", "benchmarks.push", "--layout", str(layer)])
    return steps, work / "layout"


def original(results: Path, address: str, number: int) -> Result:
    """cp, tar, sha256sum, gzip -9, an OCI layout, and a push of it."""
    steps, layout = _layout(results, number, packed=True)
    return measure([*steps, _copy(layout, f"{address}/original/adapter:v{number}")])


def skopeo(results: Path, address: str, number: int) -> Result:
    """cp, tar, sha256sum, an OCI layout without compression, and skopeo as fast as it goes."""
    steps, layout = _layout(results, number, packed=False)
    return measure([*steps, _copy(layout, f"{address}/skopeo/adapter:v{number}")])


def _copy(layout: Path, image: str) -> list[str]:
    return ["skopeo", "copy", "--preserve-digests", "--dest-tls-verify=false", f"oci:{layout}:v", f"docker://{image}"]


def oras(results: Path, address: str, number: int) -> Result:
    """tar, and oras with it as the one layer of an artifact."""
    layer = FOLDER / "layout-oras.tar"
    image = f"{address}/oras/adapter:v{number}"
    kind = "application/vnd.oci.image.layer.v1.tar"
    push = ["oras", "push", "--plain-http", "--disable-path-validation", image, f"{layer}:{kind}"]
    result = measure([["tar", "-C", str(results), "-cf", str(layer), *NAMES], push])
    layer.unlink()
    return result


def docker_build(results: Path, address: str, number: int) -> Result:
    """A Dockerfile with the files, built and pushed by an engine."""
    image = f"{address}/docker/adapter:v{number}"
    dockerfile = FOLDER / "layout-Dockerfile"
    dockerfile.write_text("FROM scratch\nCOPY adapter_config.json adapter_model.safetensors /data/\n")
    build = ["docker", "build", "-q", "-f", str(dockerfile), "-t", image, str(results)]
    result = measure([build, ["docker", "push", "-q", image]])
    subprocess.run(["docker", "rmi", image], check=True, stdout=subprocess.DEVNULL)
    return result


def ours_by_engine(results: Path, address: str, number: int) -> Result:
    """The pusher with PUSH_BACKEND=docker."""
    image = f"{address}/engine/adapter:v{number}"
    variables = {"OUTPUT_IMAGE": image, "RESULTS_PATH": str(results), "PUSH_BACKEND": "docker", "BASE_IMAGE": "scratch"}
    result = measure([[sys.executable, "-m", "pusher"]], variables)
    subprocess.run(["docker", "rmi", image], check=True, stdout=subprocess.DEVNULL)
    return result


def raw_write(results: Path, address: str, number: int) -> Result:
    """The weights sent to the registry by one request from a socket, nothing else: what the registry itself takes."""
    code = f"""
import hashlib, http.client, os
path = {str(results / NAMES[1])!r}
digest = hashlib.file_digest(open(path, 'rb'), 'sha256').hexdigest()
connection = http.client.HTTPConnection({address!r})
connection.request('POST', '/v2/raw{number}/adapter/blobs/uploads/')
answer = connection.getresponse(); answer.read()
location = answer.headers['Location']
connection.request('PUT', location + '&digest=sha256:' + digest, body=open(path, 'rb'),
                   headers={{'Content-Length': str(os.path.getsize(path))}})
assert connection.getresponse().status == 201
"""
    return measure([[sys.executable, "-c", code]])


def first_byte(results: Path, address: str) -> float:
    """Seconds from the sentinel to the first byte of the weights at the registry, seen from its uploads folder."""
    sentinel = results / "fine_tuning_completed.txt"
    content = sentinel.read_bytes()
    sentinel.unlink()
    uploads = FOLDER / "registry/docker/registry/v2/repositories/first/adapter/_uploads"
    shutil.rmtree(uploads.parent, ignore_errors=True)
    environ = {**os.environ, "OUTPUT_IMAGE": f"{address}/first/adapter:v", "RESULTS_PATH": str(results)}
    with subprocess.Popen([sys.executable, "-m", "pusher"], env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "waiting for the trainer" not in process.stderr.readline():
            pass
        time.sleep(1.5)
        start = time.monotonic()
        sentinel.write_bytes(content)
        while not any(path.stat().st_size for path in uploads.glob("*/data")) and process.poll() is None:
            time.sleep(0.005)
        seconds = time.monotonic() - start
        process.stderr.read()
    return seconds


def floor(results: Path, address: str, number: int) -> Result:
    """One pass of SHA-256 over the weights, by the same library that ours uses."""
    code = f"import hashlib; hashlib.file_digest(open({str(results / NAMES[1])!r}, 'rb'), 'sha256')"
    return measure([[sys.executable, "-c", code]])


def make_layout(layer: Path) -> None:
    """An OCI layout around a layer, by hard links and small files."""
    import hashlib

    layout = layer.parent / "layout"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        return f"sha256:{digest}"

    with layer.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    (blobs / digest).hardlink_to(layer)
    kind = "application/vnd.oci.image.layer.v1.tar" + ("+gzip" if layer.suffix == ".gz" else "")
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}
    )
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": put(config.encode()),
                "size": len(config),
            },
            "layers": [{"mediaType": kind, "digest": f"sha256:{digest}", "size": layer.stat().st_size}],
        }
    )
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": put(manifest.encode()),
        "size": len(manifest),
        "annotations": {"org.opencontainers.image.ref.name": "v"},
    }
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


CONTENDERS: dict[str, Callable[[Path, str, int], Result]] = {
    "ours": ours,
    "the original's steps": original,
    "tar, layout, skopeo": skopeo,
    "tar, oras": oras,
    "docker build, docker push": docker_build,
    "ours through the engine": ours_by_engine,
    "one SHA-256 pass, one raw request": raw_write,
    "one SHA-256 pass, nothing sent": floor,
}


def main() -> None:
    """Measure, print the table, and write it where it was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write the page of results")
    parser.add_argument("--layout", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.layout:
        make_layout(given.layout)
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    best: dict[str, Result] = {}
    waits: list[float] = []
    with registry() as address:
        for number in range(given.rounds):
            results = new_adapter(given.mib * MIB)
            for name, push in CONTENDERS.items():
                result = push(results, address, number)
                print(f"round {number + 1} {name}: {result}", flush=True)
                best[name] = min(best.get(name, result), result, key=lambda found: found.seconds)
                shutil.rmtree(FOLDER / "registry", ignore_errors=True)
            for path in FOLDER.glob("layout-*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            waits.append(first_byte(results, address))
            print(f"round {number + 1} first byte after {waits[-1]:.2f} s", flush=True)
    ours_seconds = best["ours"].seconds
    lines = [
        "| contender | wall s | times ours | client CPU s | peak memory | written to disk |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {result.seconds:.1f} | {result.seconds / ours_seconds:.1f} | {result.cpu_seconds:.1f} "
        f"| {result.peak_bytes / MIB:.0f} MiB | {result.written_bytes / MIB:,.0f} MiB |"
        for name, result in best.items()
    ]
    text = f"{given.mib} MiB, best of {given.rounds} rounds; a registry on the loopback address and the same disk.\n\n"
    text += "\n".join(lines) + "\n"
    text += (
        f"\nFrom the sentinel to the first byte at the registry: {min(waits):.1f} s, of which up to 1 s is the poll.\n"
    )
    print(text)
    if given.write:
        peers = ("docker-registry", "docker", "oras", "skopeo")
        write_page("push", "A push beside the original's steps and the usual tools", text, programs=peers)
    shutil.rmtree(FOLDER)


if __name__ == "__main__":
    main()
