"""`file://`: a file of this machine, for debugging a container without a web server."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from data_downloader.part import Part, Span, head_of
from data_downloader.sources import Source
from tuning.errors import InputNotFound

_BLOCK_BYTES = 1 << 20


class LocalCopy:
    """The way of one local file into its part."""

    can_be_taken = True

    def __init__(self, source: Source, part: Part, reserve: Callable[["LocalCopy", int], None]) -> None:
        self.source = source
        self.part = part
        self._reserve = reserve
        self._path = Path(url2pathname(urlsplit(source.url).path))

    def fetch(self, span: Span) -> None:
        """Copy the file into `span`."""
        try:
            with self._path.open("rb") as stream:
                size = self._path.stat().st_size
                self._reserve(self, size)
                self.part.restart(span, head_of({}, {}, size))
                while (block := stream.read(_BLOCK_BYTES)) and self.part.write(span, block):
                    pass
        except OSError as error:
            raise InputNotFound(f"{self.source.shown}: {error.strerror}", hint="give the path of one file") from error

    def wants_help(self) -> bool:
        """Copying is fast enough."""
        return False

    def help(self) -> None:
        """Nothing to share."""

    def cut_stalled(self, now: float) -> None:
        """No connection."""

    def cut_all(self) -> None:
        """No connection."""
