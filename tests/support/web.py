"""A web server that answers each path as a test has told it to, and remembers what it was asked."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


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
class Web:
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

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self, path: str, *answers: Answer) -> str:
        """Let `path` be answered so; return its URL."""
        self.answers[path] = list(answers)
        return f"http://127.0.0.1:{self._server.server_port}{path}"
