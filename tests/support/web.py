"""A web server that answers each path as a test has told it to, and remembers what it was asked."""

import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.loopback import LoopbackServer

# 0: any free one.
PORT = 0


@dataclass
class Asked:
    """One request that came in."""

    method: str
    path: str
    headers: dict[str, str]


Answer = Callable[[BaseHTTPRequestHandler], None]


def content(body: bytes, *, status: int = 200, cut_after: int | None = None, **headers: str) -> Answer:
    """Answer with `body`; with `cut_after`, announce all of it but close the connection after so many bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body if cut_after is None else body[:cut_after])
        if cut_after is not None:
            handler.close_connection = True

    return answer


def ranged(body: bytes, **headers: str) -> Answer:
    """Answer with the part of `body` that is asked for by `Range: bytes=N-`, or all of it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        if asked is None:
            content(body, **headers)(handler)
            return
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        content_range = f"bytes {start}-{len(body) - 1}/{len(body)}"
        content(body[start:], status=206, Content_Range=content_range, **headers)(handler)

    return answer


@dataclass
class Web(LoopbackServer):
    """`answers[path]` is a list: each request takes the first one, and the last one stays."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def __enter__(self) -> "Web":
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                web.asked.append(Asked(self.command, self.path, dict(self.headers)))
                answers = web.answers.get(self.path.partition("?")[0])
                if not answers:
                    content(b"not here", status=404)(self)
                    return
                (answers.pop(0) if len(answers) > 1 else answers[0])(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.serve_with(Handler, PORT)
        return self

    def serve(self, path: str, *answers: Answer) -> str:
        """Let `path` be answered so; return its URL."""
        self.answers[path] = list(answers)
        return f"http://{self.host}{path}"


def chunked(body: bytes, *, cut: bool = False, **headers: str) -> Answer:
    """Answer with a chunked body; with `cut`, close the connection before the last chunk."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        for start in range(0, len(body), 10_000):
            block = body[start : start + 10_000]
            handler.wfile.write(f"{len(block):x}\r\n".encode() + block + b"\r\n")
        if not cut:
            handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = cut

    return answer


def without_length(body: bytes, **headers: str) -> Answer:
    """Answer as HTTP/1.0 did: the body ends where the connection ends."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Connection", "close")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def redirect(location: str, status: int = 302, **headers: str) -> Answer:
    """Answer with a redirect."""
    return content(b"moved", status=status, Location=location, **headers)


def _reset(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection with RST, as a crashed peer or a firewall does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.close_connection = True
    handler.wfile.flush()
    for stream in (handler.rfile, handler.wfile):
        stream.close()
    handler.connection.close()


def reset_at_once(handler: BaseHTTPRequestHandler) -> None:
    """Break the connection before any answer."""
    _reset(handler)


def resetting(body: bytes, every: int, *, ranges: bool = True, times: int = 1 << 30, **headers: str) -> Answer:
    """Answer as `ranged`, but break the connection after `every` bytes, the first `times` times."""
    left = [times]

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range") if ranges else None
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        handler.send_response(206 if asked else 200)
        handler.send_header("Content-Length", str(len(body) - start))
        if asked:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        if left[0] and len(body) - start > every:
            left[0] -= 1
            handler.wfile.write(body[start : start + every])
            time.sleep(0.05)  # let the client read it: a reset discards what lies in its buffer
            _reset(handler)
        else:
            handler.wfile.write(body[start:])

    return answer


def stalling(body: bytes, after: int, seconds: float = 20.0) -> Answer:
    """Announce all of `body`, send `after` bytes of it, and then nothing. With -1 not even headers are sent."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if after >= 0:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[:after])
        handler.connection.settimeout(seconds)
        try:
            handler.connection.recv(1)
        except OSError:
            pass
        handler.close_connection = True

    return answer


def trickling(body: bytes, size: int, pause: float) -> Answer:
    """Send `body` in pieces of `size` bytes with a pause after each."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        try:
            for start in range(0, len(body), size):
                handler.wfile.write(body[start : start + size])
                time.sleep(pause)
        except OSError:
            handler.close_connection = True

    return answer


def parts(
    body: bytes, *, rate: float = 0.0, most: int = 1 << 30, spoil: Answer | None = None, **headers: str
) -> Answer:
    """A server that honours `Range: bytes=A-B` and `If-Range`.

    At most `rate` bytes a second on each connection and `most` connections, more are told 429. `spoil` answers the
    ranged requests instead.
    """
    active = [0]
    lock = threading.Lock()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        if asked and spoil:
            spoil(handler)
            return
        with lock:
            active[0] += 1
            refused = active[0] > most
        try:
            if refused:
                content(b"too many", status=429)(handler)
                return
            first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
            start, end = int(first), int(last or len(body) - 1) + 1
            handler.send_response(206 if asked else 200)
            handler.send_header("Content-Length", str(end - start))
            if asked:
                handler.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            for position in range(start, end, 65536):
                handler.wfile.write(body[position : min(position + 65536, end)])
                if rate:
                    time.sleep(65536 / rate)
        except OSError:
            handler.close_connection = True
        finally:
            with lock:
                active[0] -= 1

    return answer
