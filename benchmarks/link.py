"""A long line in user space: a relay with a round trip, TCP's slow start, and a window that loss keeps small.

What it models, for each connection: one round trip for the handshake, half of one for each direction, an initial
window of ten segments that doubles each round trip in which it was filled (RFC 6928, RFC 5681), and a largest window.
Loss at a rate p keeps the window at about 1.22 / sqrt(p) segments (Mathis et al., 1997).
"""

import argparse
import asyncio
import math

SEGMENT_BYTES = 1448
_FIRST_WINDOW_BYTES = 10 * SEGMENT_BYTES
_LARGEST_WINDOW_BYTES = 6 << 20
_BLOCK_BYTES = 1 << 18


def window_bytes(loss: float) -> int:
    """The window that a connection settles at, with the share `loss` of its segments lost."""
    return round(SEGMENT_BYTES * 1.22 / math.sqrt(loss)) if loss else _LARGEST_WINDOW_BYTES


async def relay(port: int, target: int, round_trip: float, largest: int) -> None:
    """Relay `port` to `target`, both on the loopback address, until cancelled."""

    async def serve(client: asyncio.StreamReader, client_writer: asyncio.StreamWriter) -> None:
        server, server_writer = await asyncio.open_connection("127.0.0.1", target, limit=_BLOCK_BYTES)
        await asyncio.sleep(round_trip)  # the handshake
        up = asyncio.create_task(_send(client, server_writer, round_trip, _LARGEST_WINDOW_BYTES))
        down = asyncio.create_task(_send(server, client_writer, round_trip, largest))
        await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.sleep(round_trip)
        for task in (up, down):
            task.cancel()
        for writer in (client_writer, server_writer):
            writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", port, limit=_BLOCK_BYTES, backlog=512)
    async with listener:
        await listener.serve_forever()


async def _send(source: asyncio.StreamReader, sink: asyncio.StreamWriter, round_trip: float, largest: int) -> None:
    loop = asyncio.get_running_loop()
    window, sent, opened = _FIRST_WINDOW_BYTES, 0, loop.time()
    try:
        while block := await source.read(_BLOCK_BYTES):
            while block:
                now = loop.time()
                if now - opened >= round_trip:
                    opened, sent = now, 0
                elif sent >= window:
                    await asyncio.sleep(opened + round_trip - now)
                    window = min(2 * window, largest)
                    opened, sent = loop.time(), 0
                piece, block = block[: window - sent], block[window - sent :]
                sent += len(piece)
                loop.call_later(round_trip / 2, sink.write, piece)
            await sink.drain()
    except ConnectionError:
        return


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("target", type=int)
    parser.add_argument("--round-trip", type=float, default=0.04, help="seconds")
    parser.add_argument("--loss", type=float, default=0.0, help="share of segments")
    given = parser.parse_args()
    asyncio.run(relay(given.port, given.target, given.round_trip, window_bytes(given.loss)))
