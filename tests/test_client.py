"""What a user counts on every day: tasks, fixtures, loops, threads, forks, limits, events, and mail sent once."""

import asyncio
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import pytest_asyncio

import smtpkit
import smtpkit.testing
from smtpkit import (
    ChannelLost,
    Client,
    CommandSent,
    Connected,
    ConnectError,
    DataRefused,
    Event,
    InDoubt,
    InvalidMail,
    NotSupported,
    Outcome,
    RecipientsRefused,
    Refused,
    ReplyReceived,
    SenderRefused,
    ServiceClosing,
    SessionClosed,
    Settled,
    SMTPError,
    SyncClient,
    TimedOut,
    TransferEnded,
    TransferProgress,
    TransferStarted,
    UsageError,
)
from smtpkit.options import OptionKeywords
from smtpkit.testing import Fault, Script, Server
from tests.memory import Talk
from tests.memory import mail as prepared

CERTIFICATE = Path(smtpkit.testing.__file__).with_name("certificate.pem")
MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\nSubject: hello\r\n\r\nhello\r\n"


def numbered(number: int) -> bytes:
    return MAIL + b"number %d\r\n" % number


def assert_received_once(server: Server, count: int) -> None:
    """These mails, each once, and no client did what a client must not do."""
    assert Counter(mail.octets for mail in server.received) == Counter(numbered(number) for number in range(count))
    assert [error for session in server.sessions for error in session.errors] == []


@pytest.fixture
def server() -> Iterator[Server]:
    """A good server."""
    with Server() as running:
        yield running


# Tasks, fixtures, loops


@pytest.mark.anyio
async def test_a_hundred_tasks(server: Server) -> None:
    """100 tasks send at once over 4 connections: every mail arrives once, and the server never sees more than 4."""
    settled: list[Settled] = []
    async with Client(server.url, connections=4) as client:
        client.on(Settled, settled.append)
        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(client.send, numbered(number))
        assert repr(client).endswith(": 0 sessions busy, 4 idle, 0 tasks waiting, at most 4>")
    assert_received_once(server, 100)
    assert len(server.sessions) == 4
    assert all(session.said("C")[-1] == b"QUIT" for session in server.sessions)
    assert Counter(event.item for event in settled) == Counter(numbered(number) for number in range(100))


@pytest.mark.anyio
async def test_without_a_context(server: Server) -> None:
    """A client needs no ``async with``: ``aclose()`` says QUIT, may be called twice, and ends the client."""
    client = Client(server.url)
    await client.send(numbered(0))
    await client.send(numbered(1))
    await client.aclose()
    await client.aclose()
    assert_received_once(server, 2)
    (session,) = server.sessions
    assert session.said("C")[-1] == b"QUIT"
    with pytest.raises(UsageError, match="the client is closed; make a new one"):
        await client.send(MAIL)


@pytest.mark.anyio
async def test_closed_while_busy() -> None:
    """``aclose()`` ends what is under way, what waits for a session and what opens one; nothing is sent afterwards."""
    errors: dict[str, SMTPError] = {}
    with Server(Script(replies={"END": None}), Script(delay={"greeting": 0.3})) as server:
        client = Client(server.url, connections=2)

        async def send(name: str) -> None:
            try:
                await client.send(MAIL)
            except SMTPError as error:
                errors[name] = error

        async with anyio.create_task_group() as tasks:
            spoken, connected = anyio.Event(), anyio.Event()
            client.on(TransferEnded, lambda _: spoken.set())
            tasks.start_soon(send, "spoken")
            await spoken.wait()
            client.on(Connected, lambda _: connected.set())
            tasks.start_soon(send, "opening")
            await connected.wait()
            tasks.start_soon(send, "waiting")
            await anyio.wait_all_tasks_blocked()
            assert repr(client).endswith(": 2 sessions busy, 0 idle, 1 task waiting, at most 2>")
            await client.aclose()
        assert repr(client).endswith(": 0 sessions busy, 0 idle, 0 tasks waiting, at most 2>")
    assert {name: type(error) for name, error in errors.items()} == {
        "spoken": InDoubt,
        "opening": UsageError,
        "waiting": UsageError,
    }
    assert len(server.sessions) == 2
    assert not server.received


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[Server]:
    """A server for all tests of this module that ask for it."""
    with Server() as running:
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lasting_client(lasting_server: Server) -> AsyncIterator[Client]:
    """A client for several tests, with a session that is open before the first of them."""
    async with Client(lasting_server.url) as client:
        await client.noop()
        yield client
    assert lasting_server.sessions[0].said("C")[-1] == b"QUIT"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("number", range(3))
async def test_one_client_for_many_tests(lasting_client: Client, lasting_server: Server, number: int) -> None:
    """A client made by a fixture serves test after test, over the session it has."""
    await lasting_client.send(numbered(number))
    assert_received_once(lasting_server, number + 1)
    assert len(lasting_server.sessions) == 1


@pytest.fixture
async def client(server: Server) -> AsyncIterator[Client]:
    """A client whose context is entered and left by a fixture, outside of the test's task."""
    async with Client(server.url) as client:
        yield client


@pytest.mark.anyio
async def test_fixture_on_both_loops(client: Client, server: Server) -> None:
    """A client made by a fixture works on asyncio and on trio."""
    await client.send(numbered(0))
    assert_received_once(server, 1)


@pytest.mark.anyio
async def test_across_tasks(server: Server) -> None:
    """A session opened in one task is used in others, after that one has ended, and closed in yet another."""
    client = Client(server.url)
    for number in range(3):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, numbered(number))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.aclose)
    assert_received_once(server, 3)
    assert len(server.sessions) == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_two_loops(server: Server, backend: str) -> None:
    """Sessions belong to the loop that opened them: in another there is a clear error, and a new client works."""
    client = Client(server.url)
    other = Client(server.url)
    anyio.run(client.send, numbered(0), backend=backend)

    async def second() -> None:
        with pytest.raises(UsageError, match="sessions in another event loop; use one client for each loop") as caught:
            await client.send(MAIL)
        assert caught.value.outcome is not None
        await client.aclose()
        async with other:
            await other.send(numbered(1))

    anyio.run(second, backend=backend)
    assert_received_once(server, 2)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_moves_while_it_has_no_sessions(server: Server, backend: str) -> None:
    """A client without sessions is bound to no loop: what failed in one works in the next."""
    client = Client(server.url)
    server.scripts = (Script(greeting="554 5.3.2 not now"), Script())

    async def refused() -> None:
        with pytest.raises(Refused):
            await client.send(numbered(0))

    async def second() -> None:
        async with client:
            await client.send(numbered(0))

    anyio.run(refused, backend=backend)
    anyio.run(second, backend=backend)
    assert_received_once(server, 1)


# Sessions that end


ENDS: dict[str, Script] = {
    "while idle": Script(close_after=frozenset({"END"})),
    "while idle, with 421": Script(early={"END": "421 4.4.2 idle for too long"}, close_after=frozenset({"END"})),
    "at MAIL": Script(replies={"MAIL": ["250 2.1.0 OK", Fault("close")]}),
    "at MAIL, reset": Script(replies={"MAIL": ["250 2.1.0 OK", Fault("reset")]}),
    "at MAIL, with 421": Script(replies={"MAIL": ["250 2.1.0 OK", "421 4.3.2 shutting down"]}),
}


@pytest.mark.anyio
@pytest.mark.parametrize("source", ["octets", "one shot"])
@pytest.mark.parametrize("end", ENDS)
async def test_used_session_ends(end: str, source: str) -> None:
    """A used session that ends before the server has answered a word of the next mail is replaced: sent once."""
    settled: list[Settled] = []
    with Server(ENDS[end], Script()) as server:
        async with Client(server.url) as client:
            client.on(Settled, settled.append)
            for number in range(2):
                mail = numbered(number)
                outcome = await client.send(mail if source == "octets" else iter([mail]))
                assert outcome.accepted == ("bob@example.com",)
    assert_received_once(server, 2)
    assert len(server.sessions) == 2
    assert [event.outcome.accepted for event in settled] == [("bob@example.com",)] * 2


@pytest.mark.parametrize("end", ENDS)
def test_used_session_ends_blocking(end: str) -> None:
    """The same for a SyncClient."""
    with Server(ENDS[end], Script()) as server, SyncClient(server.url) as client:
        for number in range(2):
            client.send(numbered(number))
    assert_received_once(server, 2)
    assert len(server.sessions) == 2


@pytest.mark.anyio
async def test_fresh_session_ends() -> None:
    """A server that drops a new session is not asked again: that would go on for ever."""
    with Server(Script(replies={"MAIL": Fault("close")})) as server:
        async with Client(server.url) as client:
            with pytest.raises(ChannelLost) as caught:
                await client.send(MAIL)
    assert caught.value.outcome is not None
    assert not caught.value.outcome.in_doubt
    assert len(server.sessions) == 1


@pytest.mark.anyio
async def test_ends_after_an_answer() -> None:
    """Once the server has answered a word of it, a mail is not begun anew by itself."""
    script = Script(replies={"RCPT": ["250 2.1.5 OK", Fault("close")]})
    with Server(script) as server:
        async with Client(server.url) as client:
            await client.send(numbered(0))
            with pytest.raises(ChannelLost):
                await client.send(numbered(1))
    assert_received_once(server, 1)


# Limits


@pytest.mark.anyio
async def test_wait_for_a_session_is_limited() -> None:
    """Who waits too long for one of the connections gets TimedOut, limit "connect"; who holds it is not disturbed."""
    with Server(Script(replies={"END": None})) as server:
        async with Client(server.url, connections=1, connect=1) as client, anyio.create_task_group() as tasks:
            held = anyio.Event()
            client.on(TransferEnded, lambda _: held.set())
            tasks.start_soon(client.send, numbered(0))
            await held.wait()
            with pytest.raises(TimedOut, match="no session became free") as caught:
                await client.send(numbered(1))
            assert repr(client).endswith(": 1 session busy, 0 idle, 0 tasks waiting, at most 1>")
            tasks.cancel_scope.cancel()
    assert caught.value.limit == "connect"
    assert caught.value.transient
    assert caught.value.outcome == Outcome(item=numbered(1), error=caught.value)
    assert len(server.sessions) == 1


TOTAL: dict[str, tuple[Script, type[SMTPError]]] = {
    "greeting": (Script(greeting=None), TimedOut),
    "hello": (Script(replies={"EHLO": None}), TimedOut),
    "mail": (Script(replies={"MAIL": Fault("stall")}), TimedOut),
    "mail data": (Script(replies={"END": None}), InDoubt),
}


def assert_total(error: SMTPError) -> None:
    """The limit is named, also behind what is in doubt."""
    timed_out = error.__cause__ if isinstance(error, InDoubt) else error
    assert isinstance(timed_out, TimedOut)
    assert timed_out.limit == "total"
    assert error.outcome is not None
    assert error.outcome.in_doubt == (("bob@example.com",) if isinstance(error, InDoubt) else ())


@pytest.mark.anyio
@pytest.mark.parametrize("stage", TOTAL)
async def test_total(stage: str) -> None:
    """``total`` ends a call wherever it is; only behind the last octet is it in doubt."""
    script, kind = TOTAL[stage]
    with Server(script) as server:
        async with Client(server.url, total=0.2) as client:
            with pytest.raises(kind) as caught:
                await client.send(MAIL)
            assert_total(caught.value)


@pytest.mark.parametrize("stage", TOTAL)
def test_total_blocking(stage: str) -> None:
    """The same for a SyncClient."""
    script, kind = TOTAL[stage]
    with Server(script) as server, SyncClient(server.url, total=0.2) as client:
        with pytest.raises(kind) as caught:
            client.send(MAIL)
        assert_total(caught.value)


@pytest.mark.anyio
async def test_total_that_runs_out_as_a_reply_comes() -> None:
    """The reply to EHLO is there, and so late that nothing may be said any more: the limit is what is told."""

    def compute(event: CommandSent) -> None:
        until = time.monotonic() + 0.4
        while event.text.startswith("EHLO") and time.monotonic() < until:
            pass

    with Server() as server:
        async with Client(server.url, total=0.3) as client:
            client.on(CommandSent, compute)
            with pytest.raises(TimedOut) as caught:
                await client.send(MAIL)
            assert_total(caught.value)
        assert not server.received


@pytest.mark.anyio
async def test_total_while_waiting(server: Server) -> None:
    """``total`` holds for the wait for a session too."""
    async with Client(server.url, connections=1, total=0.2) as client, client._session(None):
        with pytest.raises(TimedOut) as caught:
            await client.send(MAIL)
    assert_total(caught.value)
    assert not server.received


# SyncClient


def test_threads_take_turns(server: Server) -> None:
    """Threads share a SyncClient: every mail arrives once, over its one session."""
    with SyncClient(server.url) as client:

        def send(first: int) -> None:
            for number in range(first, first + 10):
                client.send(numbered(number))

        threads = [threading.Thread(target=send, args=(first,)) for first in range(0, 80, 10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert_received_once(server, 80)
    assert len(server.sessions) == 1


FORKING = """
import os, ssl, sys, threading
from smtpkit import SyncClient

def numbered(number):
    return %(mail)r + b"number %%d\\r\\n" %% number

context = ssl.create_default_context(cafile=%(authority)r) if %(authority)r else None
with SyncClient(%(url)r, ssl_context=context) as client:
    client.send(numbered(0))
    if %(held)r:  # as if another thread were using the client
        client._lock.acquire()
    child = os.fork()
    if child and %(held)r:
        client._lock.release()
    client.send(numbered(1 if child else 2))
    if child:
        assert os.waitpid(child, 0)[1] == 0
        client.send(numbered(3))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("held", [False, True], ids=["at rest", "used by a thread"])
@pytest.mark.parametrize("tls", ["none", "implicit"])
def test_after_fork(tls: Any, held: bool) -> None:  # noqa: FBT001  pytest gives arguments by name
    """After a fork the child opens a session of its own, and leaves the parent's alone without a complaint."""
    with Server(Script(tls=tls)) as server:
        authority = str(CERTIFICATE) if tls == "implicit" else ""
        script = FORKING % {"mail": MAIL, "url": server.url, "authority": authority, "held": held}
        run = subprocess.run(
            [sys.executable, "-X", "dev", "-W", "error", "-c", script],
            env={**os.environ, "PYTHONPATH": str(Path(smtpkit.__file__).parents[1])},
            capture_output=True,
            check=False,
            timeout=30,
        )
    assert (run.returncode, run.stderr) == (0, b"")
    assert_received_once(server, 4)
    parent, child = server.sessions
    by = {mail.octets: mail.session for mail in server.received}
    assert [by[numbered(number)] for number in range(4)] == [parent.number, parent.number, child.number, parent.number]
    assert [session.said("C").count(b"QUIT") for session in server.sessions] == [1, 1]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_inside_a_running_loop(server: Server, backend: str) -> None:
    """A SyncClient blocks, but works, where an event loop is running."""

    async def main() -> None:
        with SyncClient(server.url) as client:
            client.send(numbered(0))

    anyio.run(main, backend=backend)
    assert_received_once(server, 1)


def test_callback_calls_back(server: Server) -> None:
    """A callback that uses the client whose call it is told of gets a clear error, and the mail goes on."""
    errors: list[BaseException] = []
    client = SyncClient(server.url)

    def call_back(event: Event) -> None:
        for call in (lambda: client.send(MAIL), client.noop, client.check, client.close):
            try:
                call()
            except UsageError as error:
                errors.append(error)

    with client:
        off = client.on(TransferStarted, call_back)
        client.send(numbered(0))
        off()
        client.send(numbered(1))
    assert [str(error) for error in errors] == ["busy: a callback cannot use the client whose call it is told of"] * 4
    assert_received_once(server, 2)


def test_one_session_only() -> None:
    """A SyncClient has one session, and says so to who wants more; an async iterable needs a loop."""
    with pytest.raises(UsageError, match="connections: a SyncClient has one session; use Client for more"):
        SyncClient("smtp://127.0.0.1", connections=2)

    async def pieces() -> AsyncIterator[bytes]:
        await asyncio.sleep(0)
        yield MAIL

    with Server() as server, SyncClient(server.url) as client:
        with pytest.raises(UsageError, match="this needs an event loop"):
            client.send(pieces())
        client.send(numbered(0))
    assert_received_once(server, 1)


def test_closed(server: Server) -> None:
    """A SyncClient that was closed says so."""
    client = SyncClient(server.url)
    client.noop()
    client.close()
    client.close()
    assert repr(client).endswith("not connected>")
    with pytest.raises(UsageError, match="the client is closed; make a new one"):
        client.send(MAIL)
    with pytest.raises(UsageError, match="the client is closed; make a new one"):
        client.check()


# What else may be asked


ASKED = Script(
    tls="starttls",
    users={"tester": "secret"},
    replies={"EXPN:list": "250 Ann <ann@example.com>\nBob <bob@example.com>", "VRFY:bob": "250 <bob@example.com>"},
)


def trusting(server: Server) -> OptionKeywords:
    """The options to log in at a server with the test certificate."""
    return {"ssl_context": server.client_context(), "tls_name": "localhost", "user": "tester", "password": "secret"}


@pytest.mark.anyio
async def test_questions() -> None:
    """check(), verify(), expand(), noop() and command() are answered, all but check() over one session."""
    with Server(ASKED) as server:
        async with Client(server.url, **trusting(server)) as client:
            report = await client.check()
            assert (report.mechanism, report.verified, report.greeting) == (
                "PLAIN",
                True,
                "smtpkit.test ESMTP smtpkit.testing",
            )
            assert set(report.times) == {"connect", "greeting", "hello", "tls", "authentication"}
            assert server.sessions[0].said("C")[-1] == b"QUIT"
            assert (await client.verify("bob")).text == "<bob@example.com>"
            assert (await client.verify("eve")).code == 252
            assert await client.expand("list") == ("Ann <ann@example.com>", "Bob <bob@example.com>")
            with pytest.raises(Refused, match="EXPN: 550") as caught:
                await client.expand("none")
            assert caught.value.stage == "EXPN"
            assert (await client.noop()).code == 250
            assert (await client.command("HELP me")).code == 214
            assert (await client.command("XFAIL")).code == 500
            with pytest.raises(InvalidMail):
                await client.command("NOOP\r\nQUIT")
        assert len(server.sessions) == 2
        assert [session.errors for session in server.sessions] == [[], []]


def test_questions_blocking() -> None:
    """The same of a SyncClient."""
    with Server(ASKED) as server:
        with SyncClient(server.url, **trusting(server)) as client:
            assert client.check().mechanism == "PLAIN"
            assert client.verify("bob").text == "<bob@example.com>"
            assert client.expand("list") == ("Ann <ann@example.com>", "Bob <bob@example.com>")
            with pytest.raises(Refused, match="EXPN: 550"):
                client.expand("none")
            assert client.noop().code == 250
            assert client.command("HELP me").code == 214
            with pytest.raises(InvalidMail):
                client.command("NOOP\r\nQUIT")
        assert len(server.sessions) == 2
        assert [session.errors for session in server.sessions] == [[], []]


@pytest.mark.anyio
async def test_one_shot(server: Server) -> None:
    """``smtpkit.send`` opens a session, sends and says QUIT."""
    outcome = await smtpkit.send(numbered(0), url=server.url, hello="client.example")
    assert outcome.accepted == ("bob@example.com",)
    assert_received_once(server, 1)
    assert server.sessions[0].hello == "client.example"
    assert server.sessions[0].said("C")[-1] == b"QUIT"


@pytest.mark.anyio
async def test_default_server(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a URL mail goes to SMTPKIT_URL."""
    monkeypatch.setenv("SMTPKIT_URL", server.url)
    await smtpkit.send(MAIL)
    async with Client() as client:
        await client.send(MAIL)
    with SyncClient() as blocking:
        blocking.send(MAIL)
    assert [mail.octets for mail in server.received] == [MAIL] * 3


def test_no_default_server() -> None:
    """Without a URL and without SMTPKIT_URL the error names both."""
    with pytest.raises(UsageError, match=r"give a url such as .*, or set SMTPKIT_URL"):
        Client()


# Events


@pytest.mark.anyio
async def test_events(server: Server) -> None:
    """The iterator gives all that happens, in order, each with the session and the item, and ends with the client."""
    async with Client(server.url, hello="client.example") as client, client.events() as events:
        await client.send(MAIL)
        await client.aclose()
        heard = [event async for event in events]
    kinds = [type(event) for event in heard if not isinstance(event, CommandSent | ReplyReceived)]
    assert kinds == [Connected, TransferStarted, TransferProgress, TransferEnded, Settled, SessionClosed]
    assert [event.text for event in heard if isinstance(event, CommandSent)] == [
        "EHLO client.example",
        f"MAIL FROM:<ann@example.com> SIZE={len(MAIL)}",
        "RCPT TO:<bob@example.com>",
        "DATA",
        "QUIT",
    ]
    codes = [event.reply.code for event in heard if isinstance(event, ReplyReceived)]
    assert codes == [220, 250, 250, 250, 354, 250, 221]
    assert {event.session for event in heard} == {1}
    within = heard[heard.index(next(e for e in heard if isinstance(e, CommandSent) and "MAIL" in e.text)) : -3]
    assert all(event.item is MAIL for event in within)
    assert [event.at for event in heard] == sorted(event.at for event in heard)


@pytest.mark.anyio
async def test_events_while_sending(server: Server) -> None:
    """An iterator is read in another task while mail goes out; leaving its block ends it, and the client goes on."""
    async with Client(server.url) as client:
        async with client.events() as events, anyio.create_task_group() as tasks:
            tasks.start_soon(client.send, numbered(0))
            async for event in events:
                if isinstance(event, Settled):
                    break
        await client.send(numbered(1))
    assert_received_once(server, 2)


@pytest.mark.anyio
async def test_callbacks(server: Server) -> None:
    """``on`` calls a function for a kind of event until it is ended; what it raises changes nothing."""
    sent: list[str] = []

    def fail(event: Event) -> None:
        raise RuntimeError(event)

    async with Client(server.url) as client:
        client.on(Event, fail)
        off = client.on(CommandSent, lambda event: sent.append(event.text))
        await client.noop()
        off()
        await client.noop()
    assert [text.partition(" ")[0] for text in sent] == ["EHLO", "NOOP"]


FATES: dict[str, tuple[Script, bytes, type[SMTPError] | None]] = {
    "accepted": (Script(), MAIL, None),
    "sender refused": (Script(replies={"MAIL": "550 5.7.1 no"}), MAIL, SenderRefused),
    "recipients refused": (Script(replies={"RCPT": "550 5.1.1 no"}), MAIL, RecipientsRefused),
    "data refused": (Script(replies={"END": "554 5.7.1 spam"}), MAIL, DataRefused),
    "closing": (Script(replies={"MAIL": "421 4.3.2 no"}), MAIL, ServiceClosing),
    "lost": (Script(replies={"MAIL": Fault("close")}), MAIL, ChannelLost),
    "in doubt": (Script(replies={"END": Fault("close")}), MAIL, InDoubt),
    "timed out": (Script(replies={"MAIL": Fault("stall")}), MAIL, TimedOut),
    "invalid": (Script(), MAIL + b"\0", InvalidMail),
    "not supported": (Script(extensions=("SIZE 10",)), MAIL, NotSupported),
    "no connection": (Script(greeting=Fault("close")), MAIL, ChannelLost),
}


async def fate(script: Script, mail: bytes) -> tuple[Outcome | None, SMTPError | None, list[Settled]]:
    settled: list[Settled] = []
    with Server(script) as server:
        async with Client(server.url, timeout=0.2) as client:
            client.on(Settled, settled.append)
            try:
                return await client.send(mail), None, settled
            except SMTPError as error:
                return error.outcome, error, settled


@pytest.mark.anyio
@pytest.mark.parametrize("name", FATES)
async def test_settled_once(name: str) -> None:
    """Whatever becomes of a mail: it is told once, and what is told is what is returned, or raised with the error."""
    script, mail, kind = FATES[name]
    outcome, error, settled = await fate(script, mail)
    assert type(error) is (kind or type(None))
    assert [event.outcome for event in settled] == [outcome]
    assert outcome is not None
    assert outcome.item is mail
    assert outcome.error is error
    assert settled[0].item is mail


@pytest.mark.anyio
async def test_settled_once_cancelled() -> None:
    """A mail cancelled behind its last octet is told once, in doubt."""
    settled: list[Settled] = []
    with Server(Script(replies={"END": None})) as server:
        async with Client(server.url) as client, anyio.create_task_group() as tasks:
            client.on(Settled, settled.append)
            client.on(TransferEnded, lambda _: tasks.cancel_scope.cancel())
            await client.send(MAIL)
    assert [event.outcome.in_doubt for event in settled] == [("bob@example.com",)]


@pytest.mark.anyio
@pytest.mark.parametrize("name", [name for name in FATES if FATES[name][2]])
async def test_errors_pickle(name: str) -> None:
    """An error goes through pickle, its outcome, replies and limit with it."""
    script, mail, _ = FATES[name]
    _, error, _ = await fate(script, mail)
    assert error is not None
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.transient == error.transient
    assert error.outcome is not None
    assert again.outcome is not None
    assert again.outcome.error is again
    for field in ("accepted", "refused", "in_doubt", "reply", "replies", "message_id", "item"):
        assert getattr(again.outcome, field) == getattr(error.outcome, field)
    for attribute in ("reply", "stage", "refused", "limit", "extension"):
        assert getattr(again, attribute, None) == getattr(error, attribute, None)


@pytest.mark.anyio
async def test_no_connection() -> None:
    """Where nobody listens it is a ConnectError, which is an OSError, and nothing is in doubt."""
    server = Server()
    server.start()
    url = server.url
    server.stop()
    async with Client(url) as client:
        with pytest.raises(ConnectError) as caught:
            await client.send(MAIL)
    assert isinstance(caught.value, OSError)
    assert caught.value.outcome is not None
    assert not caught.value.outcome.in_doubt
    assert caught.value.outcome.message_id is None


@pytest.mark.anyio
async def test_no_connection_for_a_mail_with_an_identity() -> None:
    """The outcome names the mail, also where nothing of it was said."""
    async with Client("smtp://127.0.0.1:1") as client:
        with pytest.raises(ConnectError) as caught:
            await client.send(b"Message-ID: <1@example.com>\r\n" + MAIL)
    assert caught.value.outcome is not None
    assert caught.value.outcome.message_id == "<1@example.com>"


# Progress and pace

LARGE = MAIL + b"a line as good as another, and so on, sixty-four octets of it..\r\n" * 5000


@pytest.mark.anyio
@pytest.mark.parametrize("chunking", ["auto", "always"])
@pytest.mark.parametrize("source", ["octets", "iterable"])
async def test_progress_adds_up(server: Server, source: str, chunking: Any) -> None:
    """Progress grows to the size of the mail, which TransferEnded repeats; a size that is not known is None."""
    told: list[Any] = []
    async with Client(server.url, chunking=chunking) as client:
        for kind in (TransferStarted, TransferProgress, TransferEnded):
            client.on(kind, told.append)
        await client.send(LARGE if source == "octets" else iter([LARGE[:1000], LARGE[1000:]]))
    started, *progress, ended = told
    assert (type(started), type(ended)) == (TransferStarted, TransferEnded)
    size = len(LARGE) if source == "octets" else None
    assert {event.size for event in (started, *progress)} == {size}
    done = [event.done for event in progress]
    assert done == sorted(set(done))
    assert done[-1] == ended.done == len(LARGE)
    assert len(done) >= len(LARGE) // 70_000
    assert all(event.rate > 0 for event in progress)
    assert [mail.octets for mail in server.received] == [LARGE]


def test_pace_by_a_clock_of_its_own() -> None:
    """By a clock that moves only when somebody waits, ``rate`` octets take a second, whatever the number of mails."""
    talk = Talk(Script(), {"rate": 10_000})
    talk.open()
    mail = prepared(b"Subject: x\r\n\r\n" + b"x" * 62 + b"\r\n" + (b"y" * 62 + b"\r\n") * 311)
    begun = talk.stream.clock
    for _ in range(5):
        assert talk.send(mail).accepted
    took = talk.stream.clock - begun
    assert took == pytest.approx(5 * mail.mail_data.size / 10_000, rel=0.05)


@pytest.mark.anyio
async def test_pace(server: Server) -> None:
    """``rate`` holds a mail back: by the clock on the wall it is not faster than twice the rate, and it is whole."""
    progress: list[TransferProgress] = []
    async with Client(server.url, rate=len(LARGE) * 4) as client:
        client.on(TransferProgress, progress.append)
        begun = time.monotonic()
        await client.send(LARGE)
        took = time.monotonic() - begun
    assert took > 0.125
    assert progress[-1].rate < len(LARGE) * 8
    assert [mail.octets for mail in server.received] == [LARGE]


def test_pace_blocking(server: Server) -> None:
    """The same for a SyncClient."""
    with SyncClient(server.url, rate=len(LARGE) * 4) as client:
        begun = time.monotonic()
        client.send(LARGE)
        assert time.monotonic() - begun > 0.125
    assert [mail.octets for mail in server.received] == [LARGE]
