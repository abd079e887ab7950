"""An HTTP server on the loopback address, in a thread, for the block of a `with`."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class LoopbackServer:
    """What the servers of the tests share: how they start, what they are called, how they end."""

    def serve_with(self, handler: type[BaseHTTPRequestHandler], port: int = 0) -> ThreadingHTTPServer:
        """Begin to answer with `handler`; on a free port where none is named."""
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self._server

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        """Its name in a URL or a reference: address and port."""
        return f"127.0.0.1:{self._server.server_port}"
