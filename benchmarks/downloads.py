"""How fast is the data-downloader, beside the original's loop and the usual tools? One table, all in this run.

    .venv/bin/python -m benchmarks.downloads [--runs 3] [--only CASE …]

Needs Debian's nginx-light, curl, wget, aria2 and openssl. Servers and the long line run on the last core, the client on
the first one; files lie in memory (/dev/shm). We hash every byte and check the answer; the peers do not.
"""

import argparse
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.page import write_page

ROOT = Path("/dev/shm/kaito-tuning-benchmark")
MIB = 1 << 20

# The original's downloader: one curl after the other, three tries two seconds apart, no resume.
ORIGINAL = """
for url in $DATA_URLS; do
  for attempt in 1 2 3; do
    code=$(curl -sSL -w '%{http_code}' -o "$DATA_VOLUME_PATH/$(basename "$url")" $CURL_OPTIONS "$url") && \
      [ "$code" = 200 ] && [ -s "$DATA_VOLUME_PATH/$(basename "$url")" ] && break
    sleep 2
  done
done
"""


@dataclass(frozen=True)
class Case:
    """What is downloaded, how, and what we promise of it: ratios to a peer's wall time (ours must not be above)."""

    name: str
    files: int
    size_bytes: int
    server: str
    promises: dict[str, float]
    slow: bool = False


CASES = (
    Case("1 GiB, http", 1, 1024 * MIB, "http", {"curl": 1.5}),
    Case("1 GiB, https", 1, 1024 * MIB, "https", {"curl": 1.7}),
    Case("200 x 2 MiB", 200, 2 * MIB, "http", {"original": 1 / 3}),
    Case("200 x 2 MiB, 40 ms", 200, 2 * MIB, "delayed", {"original": 1 / 15, "best": 1.0}, slow=True),
    Case("256 MiB, 10 MiB/s a connection", 1, 256 * MIB, "limited", {"original": 1 / 6.5, "aria2c": 1.2}, slow=True),
    Case("256 MiB, 40 ms, 0.01 % loss", 1, 256 * MIB, "lossy", {"original": 1 / 5}, slow=True),
)


@dataclass(frozen=True)
class Measured:
    """One run: wall and processor seconds, and the peak resident memory of its largest process."""

    wall: float
    cpu: float
    peak_mib: float


def client(name: str, urls: Sequence[str], folder: Path, certificate: Path) -> tuple[list[str], dict[str, str]]:
    """The command line and the variables of a client."""
    listed = folder.parent / "urls"
    listed.write_text("\n".join(urls) + "\n")
    everywhere = {"PATH": os.environ["PATH"], "HOME": str(folder.parent)}
    variables = {**everywhere, "DATA_URLS": " ".join(urls), "DATA_VOLUME_PATH": str(folder)}
    match name:
        case "ours":
            ours = {"REQUESTS_CA_BUNDLE": str(certificate), "PYTHONDONTWRITEBYTECODE": "1"}
            return [sys.executable, "-m", "data_downloader"], {**variables, **ours}
        case "original":
            return ["sh", "-c", ORIGINAL], {**variables, "CURL_OPTIONS": f"--cacert {certificate}"}
        case "curl":
            config = folder.parent / "curl"
            lines = [f'url = "{url}"\noutput = "{folder}/{url.rpartition("/")[2]}"' for url in urls]
            config.write_text("\n".join(lines))
            command = ["curl", "-fsSL", "-Z", "--parallel-max", "8", "--cacert", str(certificate), "-K", str(config)]
            return command, everywhere
        case "aria2c":
            options = [f"--ca-certificate={certificate}", "--file-allocation=none", "--console-log-level=error"]
            options += ["--summary-interval=0", "--download-result=hide", "-q"]
            return ["aria2c", "-x8", "-s8", "-j8", *options, "-d", str(folder), "-i", str(listed)], everywhere
        case _:
            return ["wget", "-q", f"--ca-certificate={certificate}", "-P", str(folder), "-i", str(listed)], everywhere


def warm_memory(size_bytes: int) -> None:
    """Let the kernel own enough pages: a virtual machine's host would else be waited for, by whoever runs first."""
    ballast = ROOT / "ballast"
    block = bytes(MIB)
    with ballast.open("wb") as stream:
        for _ in range(size_bytes // MIB + 64):
            stream.write(block)
    ballast.unlink()


CLIENTS = ("ours", "original", "curl", "aria2c", "wget")


def run(name: str, case: Case, base: str, certificate: Path) -> Measured:
    """Download the case's files once and check their sizes."""
    folder = ROOT / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    urls = [f"{base}/{case.size_bytes // MIB}-{number}.bin" for number in range(case.files)]
    command, variables = client(name, urls, folder, certificate)
    warm_memory(case.files * case.size_bytes)
    start = time.perf_counter()
    process = subprocess.Popen(["taskset", "-c", "0", *command], env=variables, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    if process.returncode or sizes != [case.size_bytes] * case.files:
        raise RuntimeError(f"{name} failed on {case.name}: exit {process.returncode}, {errors.decode()[-500:]}")
    shutil.rmtree(folder)
    return Measured(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


NGINX = """
worker_processes 1; daemon off; pid {root}/nginx.pid; error_log {root}/nginx.log;
events {{ worker_connections 1024; }}
http {{
  default_type application/octet-stream;
  access_log off; sendfile on; keepalive_requests 100000; client_body_temp_path {root}/tmp; proxy_temp_path {root}/tmp;
  fastcgi_temp_path {root}/tmp; uwsgi_temp_path {root}/tmp; scgi_temp_path {root}/tmp;
  server {{
    listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl; root {root}/www;
    ssl_certificate {root}/cert.pem; ssl_certificate_key {root}/key.pem;
    location /limited/ {{ alias {root}/www/; limit_rate 10m; }}
  }}
}}
"""


@contextmanager
def servers() -> Iterator[dict[str, str]]:
    """The base URLs of all servers, while they run."""
    shutil.rmtree(ROOT, ignore_errors=True)
    (ROOT / "www").mkdir(parents=True)
    (ROOT / "tmp").mkdir()
    ports = free_ports(4)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", f"{ROOT}/key.pem", "-out", f"{ROOT}/cert.pem"]
    subprocess.run(command, check=True, capture_output=True)
    (ROOT / "nginx.conf").write_text(NGINX.format(root=ROOT, http=ports[0], https=ports[1]))
    link = [sys.executable, "-m", "benchmarks.link"]
    with ExitStack() as stack:
        for line in (
            ["nginx", "-c", f"{ROOT}/nginx.conf"],
            [*link, str(ports[2]), str(ports[0])],
            [*link, str(ports[3]), str(ports[0]), "--loss", "0.0001"],
        ):
            core = str((os.cpu_count() or 1) - 1)
            process = subprocess.Popen(["taskset", "-c", core, *line], stderr=subprocess.DEVNULL)
            stack.callback(end, process)
        for port in ports:
            await_port(port)
        yield {
            "http": f"http://127.0.0.1:{ports[0]}",
            "https": f"https://localhost:{ports[1]}",
            "limited": f"http://127.0.0.1:{ports[0]}/limited",
            "delayed": f"http://127.0.0.1:{ports[2]}",
            "lossy": f"http://127.0.0.1:{ports[3]}",
        }
    shutil.rmtree(ROOT)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End exactly this process."""
    process.send_signal(signal.SIGTERM)
    process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def await_port(port: int) -> None:
    """Return when somebody listens on `port`."""
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens on {port}")


def make_files(case: Case) -> None:
    """Random bytes, under a name that no reader of rows knows; one block is enough, for nothing here compresses."""
    block = os.urandom(MIB)
    for number in range(case.files):
        path = ROOT / "www" / f"{case.size_bytes // MIB}-{number}.bin"
        if not path.exists():
            with path.open("wb") as stream:
                for _ in range(case.size_bytes // MIB):
                    stream.write(block)


def measure(case: Case, base: str, runs: int) -> dict[str, Measured]:
    """The best of several runs of every client, in turns, so that what disturbs one disturbs all."""
    best: dict[str, Measured] = {}
    for _ in range(1 if case.slow else runs):
        for name in CLIENTS:
            measured = run(name, case, base, ROOT / "cert.pem")
            if name not in best or measured.wall < best[name].wall:
                best[name] = measured
    return best


def verdict(case: Case, measured: dict[str, Measured]) -> tuple[list[str], bool]:
    """What was promised of the case, beside what was measured."""
    lines, kept = [], True
    for peer, most in case.promises.items():
        walls = {name: m.wall for name, m in measured.items() if name != "ours"}
        reference = min(walls.values()) if peer == "best" else walls[peer]
        ratio = measured["ours"].wall / reference
        kept = kept and ratio <= most
        promised, got = (f"at most {most:g} x", f"{ratio:.2f} x") if most >= 1 else (
            f"{1 / most:g} times as fast as", f"{1 / ratio:.1f} times"
        )  # fmt: skip
        lines.append(f"{promised} {peer}: {got}{'' if ratio <= most else ' (missed)'}")
    return lines, kept


def start_up() -> float:
    """Seconds from the start of the app to its first work, less those of the bare interpreter."""

    def best(command: list[str], check: Callable[[int], bool]) -> float:
        walls = []
        for _ in range(5):
            start = time.perf_counter()
            assert check(subprocess.run(command, capture_output=True, check=False).returncode)
            walls.append(time.perf_counter() - start)
        return min(walls)

    bare = best([sys.executable, "-c", "pass"], lambda code: code == 0)
    return best([sys.executable, "-m", "data_downloader", "--help"], lambda code: code == 0) - bare


def main() -> int:
    """Print the table; 1 if a promise was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="runs of the quick cases; the best counts")
    parser.add_argument("--only", nargs="*", default=[], help="parts of the names of cases")
    parser.add_argument("--write", action="store_true", help="write the page of results")
    given = parser.parse_args()
    chosen = [case for case in CASES if not given.only or any(part in case.name for part in given.only)]
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    say("Seconds, the best run; the client on one core, the server on the other.\n")
    say("| case | " + " | ".join(CLIENTS) + " | ours: CPU s, peak MiB | promised: measured |")
    say("|---|" + "---|" * (len(CLIENTS) + 2))
    all_kept = True
    with servers() as bases:
        for case in chosen:
            make_files(case)
            measured = measure(case, bases[case.server], given.runs)
            told, kept = verdict(case, measured)
            memory = measured["ours"].peak_mib
            all_kept = all_kept and kept and memory <= 60
            walls = " | ".join(f"{measured[name].wall:.2f}" for name in CLIENTS)
            ours = f"{measured['ours'].cpu:.2f}, {memory:.0f}"
            say(f"| {case.name} | {walls} | {ours} | {'; '.join(told)} |")
            for path in (ROOT / "www").iterdir():
                path.unlink()
    say(f"\nImports and start: {start_up():.2f} s above the bare interpreter.")
    if given.write:
        peers = ("curl", "aria2c", "wget", "nginx")
        write_page(
            "downloads", "Downloads beside the original's loop and the usual tools", "\n".join(lines), programs=peers
        )
    return 0 if all_kept else 1


if __name__ == "__main__":
    sys.exit(main())
