"""Cancellation at every await of the pool and of ``send_many``: places, sockets and tasks are back, waiters wake."""

import os
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from smtpkit import Client, InDoubt, Mail, Settled, SMTPError
from smtpkit.options import OptionKeywords
from smtpkit.testing import Script, Server
from tests.turns import How, Turns, cut, tasks

OCTETS = b"From: ann@example.com\r\nSubject: %d\r\n\r\nhello\r\n"
APART = Script(delay=dict.fromkeys(("MAIL", "RCPT", "DATA", "END", "RSET"), 0.001))  # each reply comes by itself
BACKENDS = pytest.mark.parametrize(
    ("anyio_backend", "how"), [("asyncio", "scope"), ("asyncio", "task"), ("trio", "scope")]
)


def mails(count: int) -> list[Mail]:
    """Mails, each with its own sender."""
    return [Mail(OCTETS % number, f"s{number}@example.com", ["bob@example.com"]) for number in range(count)]


async def one_by_one(items: list[Mail]) -> AsyncIterator[Mail]:
    """An async input that has something to put away."""
    try:
        for item in items:
            await anyio.lowlevel.checkpoint()
            yield item
    finally:
        await anyio.lowlevel.checkpoint()


class Sent:
    """What a scenario has to do with: the items, those that ``send_many`` got as a list, and those it did not send."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.items = mails(7)
        self.listed: list[Mail] = []
        self.unsent: list[Mail] = []

    async def by_five_tasks(self) -> None:
        async with anyio.create_task_group() as group:
            for mail in self.items[:5]:
                group.start_soon(self.client.send, *mail)

    async def by_many(self, source: Any = None, *, slow: bool = False, leave: int | None = None) -> None:
        source = self.items if source is None else source
        outcomes = self.client.send_many(source, window=4)
        try:
            async with outcomes:
                self.listed = source if isinstance(source, list) else []
                left = leave
                async for _ in outcomes:
                    left = left and left - 1
                    if left == 0:
                        break
                    for _ in range(5 if slow else 0):
                        await anyio.lowlevel.checkpoint()
        finally:
            self.unsent = outcomes.unsent

    async def by_many_and_tasks(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self.by_many, self.items[2:])
            for mail in self.items[:2]:
                group.start_soon(self.client.send, *mail)


SCENARIOS: dict[str, tuple[Callable[[Sent], Coroutine[Any, Any, None]], OptionKeywords]] = {
    "tasks": (Sent.by_five_tasks, {"connections": 2, "timeout": 5}),
    "many": (Sent.by_many, {"connections": 1}),
    "many, three": (Sent.by_many, {"connections": 3}),
    "many by data": (Sent.by_many, {"connections": 2, "chunking": "never"}),
    "many, paced": (Sent.by_many, {"connections": 2, "rate": 50_000}),
    "async input": (lambda sent: sent.by_many(one_by_one(sent.items)), {"connections": 2}),
    "slow consumer": (lambda sent: sent.by_many(slow=True), {"connections": 2}),
    "left early": (lambda sent: sent.by_many(leave=2), {"connections": 2}),
    "async, left early": (lambda sent: sent.by_many(one_by_one(sent.items), leave=2), {"connections": 2}),
    "many and tasks": (Sent.by_many_and_tasks, {"connections": 2}),
}


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  cheaper


async def settle_down(server: Server, files: int) -> None:
    """Wait until the server has seen the end of every session, and nothing of it is open."""
    with anyio.move_on_after(10):
        while not all(session.closed for session in server.sessions) or open_files() > files:  # noqa: ASYNC110
            await anyio.sleep(0.001)


def agree(server: Server, told: list[Settled], sent: Sent) -> None:
    """Each mail was told once at most; what the server has was told as accepted or in doubt; the rest is listed."""
    own = {id(what): mail.sender for mail in sent.items for what in (mail, mail.message)}
    known = [(own[id(event.item)], event.outcome) for event in told if id(event.item) in own]
    senders = [sender for sender, _ in known]
    received = [mail.reverse_path for mail in server.received if mail.reverse_path in own.values()]
    assert len(set(senders)) == len(senders)
    assert len(set(received)) == len(received)
    assert set(received) <= set(senders)
    for sender, outcome in known:
        if outcome.in_doubt:
            assert isinstance(outcome.error, InDoubt)
        else:
            assert (sender in received) == bool(outcome.accepted)
    unsent = [mail.sender for mail in sent.unsent]
    assert len(set(unsent)) == len(unsent)
    assert not set(unsent) & set(senders)
    if sent.listed:
        assert {mail.sender for mail in sent.listed} <= {*unsent, *senders}


@pytest.mark.anyio
@BACKENDS
@pytest.mark.parametrize(
    ("scenario", "reused"),
    [*((name, False) for name in SCENARIOS), ("tasks", True), ("many", True), ("left early", True)],
)
async def test_everything_is_cut(scenario: str, how: How, anyio_backend: str, *, reused: bool) -> None:
    """Cut at each suspension of each of its tasks: the next mails go at once, and nothing is left or told wrongly."""
    run, options = SCENARIOS[scenario]
    nth, done = 0, False
    with Server(APART) as server:
        files, living = open_files(), tasks()
        while not done:
            nth += 1
            server.clear()
            told: list[Settled] = []
            async with Client(server.url, **options) as client:
                if reused:
                    await Sent(client).by_many(mails(4))
                    server.received.clear()
                off = client.on(Settled, told.append)
                sent = Sent(client)
                with anyio.fail_after(20):
                    done = await cut(nth, partial(run, sent), how)
                off()
                assert "0 sessions busy" in repr(client), nth
                assert "0 tasks waiting" in repr(client), nth
                assert tasks() == living, nth
                with anyio.fail_after(10):
                    async with anyio.create_task_group() as group:
                        for number in range(options["connections"]):
                            group.start_soon(
                                client.send, OCTETS % number, f"last{number}@example.com", ["bob@example.com"]
                            )
            await settle_down(server, files)
            assert open_files() <= files, nth
            assert tasks() == living, nth
            agree(server, told, sent)
            assert [session.errors for session in server.sessions if session.errors] == [], nth
    assert nth > 10


@pytest.mark.anyio
async def test_one_of_five_is_cut() -> None:
    """Of five that share two sessions one is cut, whichever suspends for the nth time: the other four have theirs."""
    items = mails(5)
    nth, done = 0, False
    with Server(APART) as server:
        files = open_files()
        while not done:
            nth += 1
            server.clear()
            accepted: list[str] = []
            turns = Turns(nth)

            async def one(client: Client, mail: Mail, turns: Turns, accepted: list[str]) -> None:
                with anyio.CancelScope() as scope:
                    await turns.of(client.send(*mail), scope.cancel)
                    accepted.append(mail.sender or "")

            async with Client(server.url, tls="none", connections=2) as client:
                with anyio.fail_after(10):
                    async with anyio.create_task_group() as group:
                        for mail in items:
                            group.start_soon(one, client, mail, turns, accepted)
                done = turns.count < nth
                assert len(accepted) == (5 if done else 4), nth
                assert "0 sessions busy" in repr(client), nth
                assert "0 tasks waiting" in repr(client), nth
            await settle_down(server, files)
            received = [mail.reverse_path for mail in server.received]
            assert len(set(received)) == len(received), nth
            assert set(accepted) <= set(received), nth
            assert open_files() <= files, nth
    assert nth > 10


@pytest.mark.anyio
@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_client_is_closed(scenario: str) -> None:
    """It is closed by somebody else at each suspension: everybody ends, and what was said of each mail is so."""
    run, options = SCENARIOS[scenario]
    nth, done = 0, False
    with Server(APART) as server:
        files, living = open_files(), tasks()
        while not done:
            nth += 1
            server.clear()
            told: list[Settled] = []
            client = Client(server.url, **options)
            client.on(Settled, told.append)
            sent, close = Sent(client), anyio.Event()
            with anyio.fail_after(10):
                async with anyio.create_task_group() as group:

                    async def closing(client: Client, close: anyio.Event) -> None:
                        await close.wait()
                        await client.aclose()

                    group.start_soon(closing, client, close)
                    try:
                        done = await cut(nth, partial(run, sent), close.set)
                    except* SMTPError:
                        pass
                    close.set()
            assert "0 sessions busy" in repr(client), nth
            assert "0 tasks waiting" in repr(client), nth
            await settle_down(server, files)
            assert open_files() <= files, nth
            assert tasks() == living, nth
            agree(server, told, sent)
    assert nth > 10
