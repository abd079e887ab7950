"""A faulty proxy before a real server: passes requests and answers on, and breaks where it is told to."""

import http.client
import socket
import struct
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.loopback import LoopbackServer

_HOP_HEADERS = {"connection", "transfer-encoding", "keep-alive"}
_BLOCK_BYTES = 1 << 16


class Exchange(BaseHTTPRequestHandler):
    """One request that passes through. A fault reads and changes these."""

    protocol_version = "HTTP/1.1"
    proxy: "FaultyProxy"

    def _pass(self) -> None:
        self.length = int(self.headers.get("Content-Length", 0))
        self.proxy.requests.append(f"{self.command} {self.path.partition('?')[0]}")
        # What a fault may set: bytes after which the connection is reset, a block to wait between, another answer.
        self.reset_after: int | None = None
        self.between: Callable[[], None] = lambda: None
        self.change_answer: Callable[[int, bytes, dict[str, str]], tuple[int, bytes, dict[str, str]]] | None = None
        if self.proxy.fault(self):
            return
        upstream = http.client.HTTPConnection(*self.proxy.upstream, timeout=60)
        try:
            self._forward(upstream)
        except OSError:
            self.reset()
        finally:
            upstream.close()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _pass  # noqa: N815 - the names that http.server looks for

    def _forward(self, upstream: http.client.HTTPConnection) -> None:
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _HOP_HEADERS:
                upstream.putheader(name, value)
        upstream.endheaders()
        sent = 0
        while sent < self.length:
            limit = self.length if self.reset_after is None else min(self.length, self.reset_after)
            if sent >= limit:
                self.reset()
                return
            block = self.rfile.read(min(_BLOCK_BYTES, limit - sent))
            if not block:
                return
            upstream.send(block)
            sent += len(block)
            self.between()
        answer = upstream.getresponse()
        status, body, headers = answer.status, answer.read(), dict(answer.getheaders())
        if self.change_answer:
            status, body, headers = self.change_answer(status, body, headers)
        self.answer(status, body, headers)

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Answer in the server's place. The body of the request must be read, or the connection ends here."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            if name.lower() not in {*_HOP_HEADERS, "content-length", "date", "server"}:
                self.send_header(name, value)
        length = (headers or {}).get("Content-Length", str(len(body))) if self.command == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bool:
        """Read the request's body and answer in the server's place."""
        self.rfile.read(self.length)
        self.answer(status, body, headers)
        return True

    def reset(self) -> None:
        """Cut the connection with a reset, as a load balancer that is replaced does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            pass

    def log_message(self, *args: Any) -> None:
        pass


class FaultyProxy(LoopbackServer):
    """Listens on the loopback address before `upstream`; `fault` may answer itself and then returns True."""

    def __init__(self, upstream: str) -> None:
        name, _, port = upstream.partition(":")
        self.upstream = (name, int(port))
        self.requests: list[str] = []
        self.fault: Callable[[Exchange], bool] = lambda _: False

    def __enter__(self) -> "FaultyProxy":
        exchange = type("Exchange", (Exchange,), {"proxy": self})
        # A connection that is cut on purpose is no error to print.
        self.serve_with(exchange).handle_error = lambda *_: None  # type: ignore[method-assign]
        return self
