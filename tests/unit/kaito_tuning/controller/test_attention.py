"""Looks at things: when woken, again when asked for, and for ever where they fail."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kaito_tuning.controller import attention
from kaito_tuning.controller.attention import Attention


def looks_until(
    look: Callable[[str], Awaitable[float | None]], keys: list[str], done: Callable[[], bool], at_once: int = 4
) -> None:
    """Wake `keys` and let it look until `done`."""

    async def run() -> None:
        watched = Attention(look, (ConnectionError,), at_once)
        for key in keys:
            watched.wake(key)
        async with asyncio.timeout(20):
            while not done():
                await asyncio.sleep(0.001)
        await watched.close()

    asyncio.run(run())


@pytest.mark.parametrize("error", [ConnectionError("no answer"), ZeroDivisionError("a bug")])
def test_what_fails_is_looked_at_however_often_it_failed(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_FIRST_PAUSE_SECONDS", 1e-6)
    monkeypatch.setattr(attention, "_LONGEST_PAUSE_SECONDS", 1e-6)
    monkeypatch.setattr(attention.logger, "disabled", True)
    looks: list[str] = []

    async def look(key: str) -> None:
        looks.append(key)
        raise error

    looks_until(look, ["a"], lambda: len(looks) > 1500)


def test_pauses_grow_to_a_bound() -> None:
    watched: Attention[str] = Attention(_refused, (ConnectionError,))

    async def pauses() -> list[float]:
        found, pause = [], 0.5
        for _ in range(8):
            _, pause = await watched._look_once("a", pause)
            found.append(pause)
        return found

    assert asyncio.run(pauses()) == [1, 2, 4, 8, 15, 15, 15, 15]


async def _refused(key: str) -> None:
    raise ConnectionError("refused")


def test_one_that_goes_wrong_stops_none_of_the_others_and_none_is_looked_at_twice_at_once() -> None:
    looks: dict[str, int] = {"good": 0, "bad": 0}
    busy: set[str] = set()

    async def look(key: str) -> float:
        assert key not in busy
        busy.add(key)
        await asyncio.sleep(0.002)
        busy.discard(key)
        looks[key] += 1
        if key == "bad":
            raise ZeroDivisionError
        return 0.001

    looks_until(look, ["bad", "good", "good"], lambda: looks["good"] > 5 and looks["bad"] > 0, at_once=1)


def test_what_is_woken_while_it_is_looked_at_is_looked_at_once_more() -> None:
    looks: list[str] = []

    async def run() -> None:
        async def look(key: str) -> None:
            looks.append(key)
            if len(looks) == 1:
                watched.wake(key)

        watched: Attention[str] = Attention(look, ())
        watched.wake("a")
        await asyncio.sleep(0.05)
        assert looks == ["a", "a"]
        watched.wake("a")
        await asyncio.sleep(0.05)
        assert looks == ["a", "a", "a"], "what was gone may come again"
        await watched.close()

    asyncio.run(run())
