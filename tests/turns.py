"""Cuts a scenario at its nth suspension, whichever of its tasks it is that suspends, on asyncio and trio.

Rules: every task that is begun within is counted, those of the library too. The scenario may be cut by a cancel scope
around it, or on asyncio by ``Task.cancel``, as those do who know nothing of scopes, or by what the caller gives.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any, Literal

import anyio
import trio

How = Literal["scope", "task"] | Callable[[], object]
_within: ContextVar[bool] = ContextVar("_within", default=False)


class Turns:
    """Counts suspensions; at the nth it calls ``cut``."""

    def __init__(self, nth: int, cut: Callable[[], object] = lambda: None) -> None:
        self.nth = nth
        self.count = 0
        self.cut = cut

    def step(self, cut: Callable[[], object] | None = None) -> None:
        """A task has suspended."""
        self.count += 1
        if self.count == self.nth:
            (cut or self.cut)()

    @coroutine
    def of(self, inner: Coroutine[Any, Any, Any], cut: Callable[[], object] | None = None) -> Generator[Any, Any, Any]:
        """A coroutine, counted; ``cut`` is then for this one alone."""
        resume, value = inner.send, None
        while True:
            try:
                waits = resume(value)
            except StopIteration as stop:
                return stop.value
            self.step(cut)
            try:
                value, resume = (yield waits), inner.send
            except BaseException as error:  # noqa: BLE001  handed in, as an event loop does
                value, resume = error, inner.throw

    def task(self, loop: asyncio.AbstractEventLoop, inner: Any, **how: Any) -> "asyncio.Task[Any]":
        """What asyncio makes tasks by; only those of the scenario are counted."""

        async def counted() -> Any:
            return await self.of(inner)

        return asyncio.Task(counted() if _within.get() else inner, loop=loop, **how)


class Counting(trio.abc.Instrument):
    """What trio tells of its tasks."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task.context.get(_within):
            self._turns.step()


async def cut(nth: int, scenario: Callable[[], Coroutine[Any, Any, None]], how: How = "scope") -> bool:
    """Run a scenario and cut it. Returns whether it came to its end before its nth suspension."""

    async def on_asyncio(turns: Turns, run: Callable[[], Awaitable[object]]) -> None:
        loop = asyncio.get_running_loop()
        before = loop.get_task_factory()
        loop.set_task_factory(turns.task)
        try:
            await run()
        finally:
            loop.set_task_factory(before)

    async def on_trio(turns: Turns, run: Callable[[], Awaitable[object]]) -> None:
        counting = Counting(turns)
        trio.lowlevel.add_instrument(counting)
        try:
            await run()
        finally:
            trio.lowlevel.remove_instrument(counting)

    async def in_scope() -> None:
        async with anyio.create_task_group() as group:
            turns.cut = how if callable(how) else group.cancel_scope.cancel
            token = _within.set(True)  # what is begun here has it in its context
            group.start_soon(scenario)
            _within.reset(token)

    async def in_task() -> None:
        token = _within.set(True)
        task = asyncio.ensure_future(scenario())
        _within.reset(token)
        turns.cut = task.cancel
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    turns = Turns(nth)
    watch = on_asyncio if asyncio_runs() else on_trio
    await watch(turns, in_task if how == "task" else in_scope)
    return turns.count < nth


def asyncio_runs() -> bool:
    """Is the loop one of asyncio's?"""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def tasks() -> int:
    """How many tasks there are."""
    return len(asyncio.all_tasks()) if asyncio_runs() else trio.lowlevel.current_statistics().tasks_living
