"""Look at each thing when it is woken, again when it asked for it, and after a growing pause when a look failed.

The pattern of client-go's rate limiting workqueue: one look at a thing at a time, however often it was woken. Knows no
cluster.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 15.0

logger = logging.getLogger(__name__)


class Attention(Generic[Key]):
    """What `look` is paid to; it says in how many seconds it wants to look again, or None when a thing is gone.

    What it raises of the kinds `expected` is logged in one line, anything else with a traceback; either way the thing
    is looked at again, so that one that goes wrong stops none of the others. At most `at_once` looks run together.
    """

    def __init__(
        self,
        look: Callable[[Key], Awaitable[float | None]],
        expected: tuple[type[Exception], ...],
        at_once: int = 4,
    ) -> None:
        self._look = look
        self._expected = expected
        self._turn = asyncio.Semaphore(at_once)
        self._wakes: dict[Key, asyncio.Event] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def wake(self, key: Key) -> None:
        """Have `key` looked at soon, and once more if it is being looked at now."""
        if key not in self._wakes:
            self._wakes[key] = asyncio.Event()
            task = asyncio.create_task(self._attend(key, self._wakes[key]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._wakes[key].set()

    async def close(self) -> None:
        """End, in the middle of a look where need be."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _attend(self, key: Key, wake: asyncio.Event) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            wake.clear()
            async with self._turn:
                seconds, pause = await self._look_once(key, pause)
            if seconds is None and not wake.is_set():
                del self._wakes[key]
                return
            try:
                async with asyncio.timeout(seconds):
                    await wake.wait()
            except TimeoutError:
                pass

    async def _look_once(self, key: Key, pause: float) -> tuple[float | None, float]:
        """When to look again, and how long to wait should the next look fail; `pause` if this one does."""
        try:
            return await self._look(key), _FIRST_PAUSE_SECONDS
        except self._expected as error:
            logger.warning("will look again key=%s seconds=%.1f reason=%s", key, pause, error)
        except Exception:
            logger.exception("bug: will look again key=%s seconds=%.1f", key, pause)
        # Doubled up to the bound, not raised to a power: an outage of hours would leave the numbers of a float.
        return pause, min(2 * pause, _LONGEST_PAUSE_SECONDS)
