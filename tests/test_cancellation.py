"""Cancellation at every await: of connecting, TLS, login, sending and the pool, on asyncio and trio."""

import asyncio
import gc
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import coroutine
from typing import Any

import anyio
import pytest

from smtpkit import Client, InDoubt, Settled
from smtpkit.options import OptionKeywords
from smtpkit.testing import Script, Server

pytestmark = pytest.mark.anyio

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
USERS = {"tester": "secret"}
WAYS: dict[str, tuple[Script, OptionKeywords]] = {
    "plain": (Script(), {}),
    "plain, bdat": (Script(), {"chunking": "always"}),
    "lmtp": (Script(lmtp=True), {}),
    "starttls, login": (Script(tls="starttls", users=USERS), {"user": "tester", "password": "secret"}),
    "implicit tls, cram-md5": (
        Script(tls="implicit", users=USERS),
        {"user": "tester", "password": "secret", "mechanism": "CRAM-MD5"},
    ),
}


class Steps:
    """Awaits a coroutine and cancels a scope when it suspends for the nth time."""

    def __init__(self, nth: int) -> None:
        self.nth = nth
        self.count = 0
        self.scope = anyio.CancelScope()

    @coroutine
    def _run(self, inner: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
        step, value = inner.send, None
        while True:
            try:
                waits = step(value)
            except StopIteration as stop:
                return stop.value
            self.count += 1
            if self.count == self.nth:
                self.scope.cancel()
            try:
                value, step = (yield waits), inner.send
            except BaseException as error:  # noqa: BLE001  handed in, as an event loop does
                value, step = error, inner.throw

    async def run(self, inner: Coroutine[Any, Any, Any]) -> bool:
        """Run it. Returns whether it came to its end before the nth suspension."""
        with self.scope:
            await self._run(inner)
        return self.count < self.nth


class _Task:
    """The task of who asks, cancelled as asyncio.timeout and TaskGroup do it: no scope can be shielded from that."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        task = asyncio.current_task()
        assert task is not None
        return kind is asyncio.CancelledError and task.uncancel() == 0

    def cancel(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()


def steps(nth: int, *, native: bool) -> Steps:
    """Cancels at the nth suspension, by a scope or, if ``native``, the task itself."""
    made: Any = Steps(nth)
    if native:
        made.scope = _Task()
    return made  # type: ignore[no-any-return]


def open_files() -> int:
    gc.collect()
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "reused"])
@pytest.mark.parametrize("way", WAYS)
async def test_a_send_cancelled_at_every_await(way: str, *, fresh: bool) -> None:
    """Nothing is left behind, the next send works, and what the server accepted is told as accepted or in doubt."""
    script, options = WAYS[way]
    with Server(script) as server:
        if script.tls != "none":
            options = {**options, "ssl_context": server.client_context()}
        options = {**options, "connections": 1, "timeout": 5}
        async with Client(server.url, **options) as client:
            before, nth, done = open_files(), 0, False
            while not done:
                nth += 1
                server.clear()
                if fresh:
                    for session in client._pool.empty()[0]:
                        await session.close()
                settled: list[Settled] = []
                off = client.on(Settled, settled.append)
                done = await Steps(nth).run(client.send(MAIL))
                off()
                for told in settled:
                    known = {*told.outcome.accepted, *told.outcome.in_doubt}
                    if server.received:
                        assert known == {"bob@example.com"}
                    if told.outcome.in_doubt:
                        assert isinstance(told.outcome.error, InDoubt)
                assert settled or not server.received
                assert "0 sessions busy" in repr(client)
                assert "0 tasks waiting" in repr(client)
                outcome = await client.send(MAIL)
                assert outcome.accepted == ("bob@example.com",)
            assert nth > 1
        assert all(not session.errors for session in server.sessions)
        assert open_files() <= before + 1


async def test_a_waiter_cancelled_at_every_await() -> None:
    """Tasks that wait for a session and are cancelled at any moment leave their place to the next."""
    with Server() as server:
        async with Client(server.url, connections=1) as client:
            for nth in range(1, 12):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(client.send, MAIL)
                    tasks.start_soon(Steps(nth).run, client.send(MAIL))
                    tasks.start_soon(client.send, MAIL)
                assert "0 sessions busy" in repr(client)
                assert "0 tasks waiting" in repr(client)
            assert (await client.send(MAIL)).accepted == ("bob@example.com",)
