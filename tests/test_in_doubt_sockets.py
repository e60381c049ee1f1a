"""The same sweeps over real sockets: a connection for each octet at which the server ends, resets or falls silent."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import anyio
import pytest

from smtpkit.errors import InDoubt, Outcome, SMTPError
from smtpkit.observers import Observers
from smtpkit.options import OptionKeywords, Options
from smtpkit.session import Known, Session, World
from smtpkit.sync_client import drive
from smtpkit.testing import Fault, Script, Server
from smtpkit.testing.script import FaultKind
from smtpkit.transport.connect import connect, connect_blocking, run_in_worker, run_inline
from tests.memory import FORMS, mail, tried

Attempt = tuple[str, Outcome | None]
AT_ONCE = 96
PATIENCE = {"close": 5.0, "reset": 5.0, "stall": 0.8}  # seconds: only what stalls is waited for, on a busy machine too


async def attempt(world: World, url: str, options: OptionKeywords, sender: str) -> Attempt:
    """One session, one mail; the sender tells it from the others."""
    session = Session(Options.of(url, **options), 1, Observers())
    try:
        await session.open(world, None, Known())
    except SMTPError:
        return sender, None
    outcome, _ = await session.send(mail(sender=sender), None, None)
    await session.close()
    return sender, outcome


def blocking(url: str, options: OptionKeywords, senders: list[str]) -> list[Attempt]:
    """All attempts by blocking streams, each in a thread."""
    world = World(connect_blocking, run_inline, time.monotonic)
    with ThreadPoolExecutor(AT_ONCE) as threads:
        return list(threads.map(lambda sender: drive(attempt(world, url, options, sender)), senders))


def in_loop(backend: str) -> Callable[[str, OptionKeywords, list[str]], list[Attempt]]:
    """All attempts in an event loop."""

    def run(url: str, options: OptionKeywords, senders: list[str]) -> list[Attempt]:
        async def main() -> list[Attempt]:
            attempts: list[Attempt] = []
            limiter = anyio.CapacityLimiter(AT_ONCE)

            async def one(sender: str) -> None:
                async with limiter:
                    attempts.append(await attempt(world, url, options, sender))

            async with anyio.create_task_group() as tasks:
                for sender in senders:
                    tasks.start_soon(one, sender)
            return attempts

        world = World(connect, run_in_worker, time.monotonic)
        return anyio.run(main, backend=backend)

    return run


STREAMS = {"asyncio": in_loop("asyncio"), "trio": in_loop("trio"), "blocking": blocking}


def broken(script: Script, fault: FaultKind, where: str, octet: int) -> Script:
    """The script with a fault after so many octets said, or heard."""
    after, before = (octet, None) if where == "after" else (None, octet)
    return replace(script, faults=(Fault(fault, after, before),))


@pytest.mark.parametrize("fault", ["close", "reset", "stall"])
@pytest.mark.parametrize("where", ["after", "before"])
@pytest.mark.parametrize("form", ["data", "bdat", "lmtp"])
@pytest.mark.parametrize("stream", STREAMS)
def test_fault_at_every_octet(stream: str, form: str, where: str, fault: FaultKind) -> None:
    """After each octet that the server says or hears: no verdict contradicts what the server has recorded."""
    script, options = FORMS[form]
    talk, _ = tried(script, options)
    octets = range(talk.stream.received if where == "after" else len(talk.stream.sent))
    scripts = [broken(script, fault, where, octet) for octet in octets]
    with Server(*scripts) as server:
        limits: OptionKeywords = dict.fromkeys(("timeout", "final", "connect"), PATIENCE[fault])  # type: ignore[assignment]
        options = {"hello": "client.example", "tls": "none", **limits, **options}
        attempts = STREAMS[stream](server.url, options, [f"ann{octet:04}@example.com" for octet in octets])
    served: dict[str, set[str]] = {}
    for received in server.received:
        served.setdefault(received.reverse_path, set()).update(received.paths)
    doubts = 0
    for sender, outcome in attempts:
        got = served.get(sender, set())
        if outcome is None:
            assert not got
            continue
        assert set(outcome.accepted) <= got <= {*outcome.accepted, *outcome.in_doubt}
        assert isinstance(outcome.error, InDoubt) == bool(outcome.in_doubt)
        doubts += bool(outcome.in_doubt)
    assert len(attempts) == len(octets)
    if where == "after":
        assert doubts
