"""The run's figures for Prometheus at `/metrics`, and `/healthz` for the kubelet's probes."""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app

logger = logging.getLogger(__name__)


class Metrics:
    """The gauges of a run, all named `kaito_tuning_…`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.step = self._gauge("step", "Optimizer steps done")
        self.steps_total = self._gauge("steps_total", "Optimizer steps of the whole run")
        self.epoch = self._gauge("epoch", "Epochs done")
        self.loss = self._gauge("loss", "Training loss of the last log, nats per token")
        self.eval_loss = self._gauge("eval_loss", "Loss on the held-out samples, nats per token")
        self.learning_rate = self._gauge("learning_rate", "Learning rate of the last step")
        self.tokens = self._gauge("tokens", "Tokens trained on, padding left out")
        self.tokens_per_second = self._gauge("tokens_per_second", "Tokens trained on each second since the last log")
        self.gpu_memory_bytes = self._gauge("gpu_memory_bytes", "Peak of the allocated GPU memory")
        self.remaining_seconds = self._gauge("remaining_seconds", "Predicted time to the last step")

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(f"kaito_tuning_{name}", meaning, registry=self.registry)


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Nothing: a probe each second is no news."""


@contextmanager
def serving(metrics: Metrics, port: int) -> Iterator[int]:
    """Serve while the block runs; the port that was taken, 0 where none was asked for or it is in use."""
    if port == 0:
        yield 0
        return
    prometheus = make_wsgi_app(metrics.registry)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                return list(prometheus(environ, start_response))
            case "/healthz":
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [b"ok\n"]
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"/metrics or /healthz\n"]

    try:
        server = make_server("", port, app, WSGIServer, _Quiet)
    except OSError as error:
        logger.warning("no metrics are served port=%d reason=%s", port, error.strerror)
        yield 0
        return
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
