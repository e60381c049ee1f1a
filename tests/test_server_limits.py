"""The server's limits and the age of sessions, seen at the server: by Client on both loops, SyncClient, the worker."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self

import anyio
import pytest

import smtpkit
from smtpkit import (
    Client,
    CommandSent,
    ConnectError,
    InDoubt,
    NotSupported,
    Outcome,
    Refused,
    SenderRefused,
    Settled,
    SyncClient,
)
from smtpkit.testing import Fault, Occurrence, Script, Server

MAIL = b"From: ann@example.com\r\nSubject: hello\r\nMessage-ID: <1@example.com>\r\n\r\nhello\r\n"
ANN = "ann@example.com"


def to(count: int, domain: str = "example.com") -> list[str]:
    """So many recipients."""
    return [f"r{number}@{domain}" for number in range(count)]


def limits(text: str, **more: Any) -> Script:
    """A server that announces limits."""
    return Script(extensions=("PIPELINING", "8BITMIME", "SIZE 1000000", "DSN", f"LIMITS {text}"), **more)


def at_most(count: int) -> Callable[[Occurrence], str]:
    """Answers RCPT by 452 beyond so many in a transaction."""

    def answer(asked: Occurrence) -> str:
        said = asked.session.said("C")
        begun = max(place for place, line in enumerate(said) if line.startswith(b"MAIL"))
        return "250 2.1.5 ok" if len(said) - begun - 1 <= count else "452 4.5.3 too many recipients"

    return answer


class Way:
    """One of the ways to send, all in the same words; ``settled`` is what was told."""

    def __init__(self, kind: str, url: str, **options: Any) -> None:
        self.settled: list[Outcome] = []
        self._client: Any = (SyncClient if kind == "sync" else Client)(url, **options)
        self._client.on(Settled, lambda event: self.settled.append(event.outcome))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._done(self._client.aclose() if isinstance(self._client, Client) else self._client.close())

    async def send(self, recipients: list[str], mail: Any = MAIL, **more: Any) -> Outcome:
        outcome: Outcome = await self._done(self._client.send(mail, ANN, recipients, **more))
        return outcome

    async def _done(self, call: Any) -> Any:
        return await call if isinstance(call, Awaitable) else call

    def __repr__(self) -> str:
        return repr(self._client)


@pytest.fixture(params=["asyncio", "trio", "sync"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which client the test is for: Client on a loop, or SyncClient, which needs none."""
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> str:
    """The loop that the test runs in."""
    return "asyncio" if kind == "sync" else kind


def received(server: Server) -> list[tuple[int, list[str]]]:
    """The session and the recipients of each mail; nobody did what a client must not do."""
    assert [error for session in server.sessions for error in session.errors] == []
    assert all(mail.octets == MAIL for mail in server.received)
    return [(mail.session, list(mail.paths)) for mail in server.received]


async def farewells(server: Server, count: int) -> list[bytes]:
    """The last line of each session that has ended, once so many have."""
    until = time.monotonic() + 10
    while sum(b"QUIT" in session.said("C") for session in server.sessions) < count and time.monotonic() < until:  # noqa: ASYNC110  a thread tells
        await anyio.sleep(0.002)
    return [session.said("C")[-1] for session in server.sessions[:count]]


# Recipients


@pytest.mark.anyio
async def test_rcptmax(kind: str) -> None:
    """A mail for more than RCPTMAX goes in several transactions of one session, and is one mail to its sender."""
    with Server(limits("RCPTMAX=2")) as server:
        async with Way(kind, server.url) as way:
            outcome = await way.send(to(5))
        assert outcome.accepted == tuple(to(5))
        assert outcome.error is None
        assert outcome.message_id == "<1@example.com>"
        assert way.settled == [outcome]
        assert received(server) == [(1, to(5)[:2]), (1, to(5)[2:4]), (1, to(5)[4:])]


@pytest.mark.anyio
async def test_452_behind_some(kind: str) -> None:
    """Those behind a server's own limit go in further transactions, which are no longer than it has shown to take."""
    with Server(Script(replies={"RCPT": at_most(3)})) as server:
        async with Way(kind, server.url) as way:
            outcome = await way.send(to(8))
            again = await way.send(to(4))
        assert outcome.accepted == tuple(to(8))
        assert outcome.refused == {}
        assert way.settled == [outcome, again]
        assert [paths for _, paths in received(server)] == [to(8)[:3], to(8)[3:6], to(8)[6:], to(3), to(4)[3:]]
        verbs = [line[:4] for line in server.sessions[0].said("C")]
        assert verbs.count(b"RCPT") == 8 + 3 + 2 + 4 + 1


@pytest.mark.anyio
async def test_dsn_in_each(kind: str) -> None:
    """Each transaction says the same of the mail, and each recipient what was asked for."""
    with Server(limits("RCPTMAX=1")) as server:
        async with Way(kind, server.url) as way:
            await way.send(to(2), dsn=smtpkit.DSN(notify=("SUCCESS",), envelope_id="QQ1"))
        said = server.sessions[0].said("C")
        first, second = [line for line in said if line.startswith(b"MAIL")]
        assert first == second
        assert b" ENVID=QQ1" in first
        assert b" SIZE=" in first
        assert all(b" NOTIFY=SUCCESS" in line for line in said if line.startswith(b"RCPT"))


@pytest.mark.anyio
async def test_domains_of_a_session(kind: str) -> None:
    """RCPTDOMAINMAX holds for a session: other domains go by another, the same one goes on."""
    with Server(limits("RCPTDOMAINMAX=1")) as server:
        async with Way(kind, server.url) as way:
            assert (await way.send([*to(1), *to(1, "example.net"), *to(1, "example.org")])).error is None
            assert (await way.send(to(1, "example.org"))).error is None
            assert (await way.send(to(1))).error is None
        assert received(server) == [
            (1, to(1)),
            (2, to(1, "example.net")),
            (3, to(1, "example.org")),
            (3, to(1, "example.org")),
            (4, to(1)),
        ]
        assert await farewells(server, 4) == [b"QUIT"] * 4


@pytest.mark.anyio
async def test_mailmax_within_a_mail(kind: str) -> None:
    """MAILMAX counts each transaction of a mail: the rest goes by another session."""
    with Server(limits("RCPTMAX=1 MAILMAX=2")) as server:
        async with Way(kind, server.url) as way:
            outcome = await way.send(to(5))
        assert outcome.accepted == tuple(to(5))
        assert way.settled == [outcome]
        assert [session for session, _ in received(server)] == [1, 1, 2, 2, 3]
        assert await farewells(server, 3) == [b"QUIT"] * 3


@pytest.mark.anyio
async def test_told_once(kind: str) -> None:
    """What can be told once only is refused before anything is sent, and the session is as good as before."""
    with Server(limits("RCPTMAX=2")) as server:
        async with Way(kind, server.url) as way:
            with pytest.raises(NotSupported, match="told once") as error:
                await way.send(to(3), iter([MAIL]))
            assert error.value.extension == "LIMITS"
            assert error.value.outcome is not None
            assert error.value.outcome.accepted == ()
            assert (await way.send(to(2), iter([MAIL]))).accepted == tuple(to(2))
        assert received(server) == [(1, to(2))]


@pytest.mark.anyio
async def test_all_or_nobody(kind: str) -> None:
    """Where nobody is to get it unless all do, a limit that is announced ends it before, and a 452 as any refusal."""
    script = Script(replies={"RCPT": at_most(1)})
    with Server(limits("RCPTMAX=2"), script) as server:
        async with Way(kind, server.url, on_refused="stop", lifetime=1e-6) as way:
            with pytest.raises(NotSupported, match="all its recipients or none"):
                await way.send(to(3))
            with pytest.raises(smtpkit.RecipientsRefused, match="too many"):
                await way.send(to(2))
        assert server.received == []


@pytest.mark.anyio
async def test_lost_in_the_second(kind: str) -> None:
    """Who was accepted stays so, whatever befalls the rest, and the error tells both."""
    script = limits("RCPTMAX=1", replies={"END": ["250 ok", Fault("close")]})
    with Server(script) as server:
        async with Way(kind, server.url) as way:
            with pytest.raises(InDoubt) as error:
                await way.send(to(3))
        (outcome,) = way.settled
        assert error.value.outcome == outcome
        assert outcome.accepted == tuple(to(3)[:1])
        assert outcome.in_doubt == tuple(to(3)[1:2])
        assert outcome.refused == {}


@pytest.mark.anyio
async def test_no_session_for_the_rest(kind: str) -> None:
    """Where no second session comes about the first part stays accepted, and the error says why the rest was not."""
    with Server(limits("RCPTMAX=1 MAILMAX=1"), Script(greeting="554 no")) as server:
        async with Way(kind, server.url) as way:
            with pytest.raises(Refused, match="554") as error:
                await way.send(to(2))
        (outcome,) = way.settled
        assert error.value.outcome == outcome
        assert outcome.accepted == tuple(to(1))
        assert outcome.refused == {}
        assert [paths for _, paths in received(server)] == [to(1)]


@pytest.mark.anyio
async def test_silently_lost_in_the_second(kind: str) -> None:
    """A server that closes behind each mail gets the rest over another session: nothing was begun on the old one."""
    with Server(limits("RCPTMAX=1", close_after=frozenset({"END"}))) as server:
        async with Way(kind, server.url) as way:
            outcome = await way.send(to(3))
        assert outcome.accepted == tuple(to(3))
        assert [session for session, _ in received(server)] == [1, 2, 3]


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
def test_cancelled_between_sessions(kind: str) -> None:
    """Cancelled while it waits for a session for the rest: what was accepted is told, once."""

    async def cancel() -> list[Outcome]:
        async with Way(kind, server.url) as way:
            with anyio.move_on_after(20) as scope:
                greeted: list[str] = []

                def leave(event: CommandSent) -> None:
                    greeted.extend([event.text] * event.text.startswith("EHLO"))
                    if len(greeted) == 2:
                        scope.cancel()

                way._client.on(CommandSent, leave)
                await way.send(to(2))
            assert scope.cancelled_caught
            return way.settled

    with Server(limits("RCPTMAX=1 MAILMAX=1"), Script(replies={"EHLO": None})) as server:
        (outcome,) = anyio.run(cancel, backend=kind)
        assert outcome.accepted == tuple(to(1))
        assert outcome.in_doubt == ()
        assert "given up" in str(outcome.error)


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
def test_the_worker(kind: str, memory_path: Path) -> None:
    """The worker splits too; where no session is to be had for the rest, only the rest is tried again."""
    folder = memory_path / "spool"
    folder.mkdir(mode=0o700)

    async def work() -> list[str]:
        await smtpkit.enqueue(folder, MAIL, ANN, to(3))
        told: list[str] = []
        async with Client(server.url) as client:
            client.on(smtpkit.Attempted, lambda event: told.append(event.state))
            await client.worker(folder, retry=smtpkit.Retry(first=0.01, most=0.01, jitter=0)).run(wait=True)
        return told

    with Server(limits("RCPTMAX=1 MAILMAX=2"), Script(greeting="421 later"), limits("RCPTMAX=1")) as server:
        assert anyio.run(work, backend=kind) == ["queued", "sent"]
        assert [paths for _, paths in received(server)] == [[path] for path in to(3)]
        assert list(folder.glob("*.*")) == []


# Sessions

RETIRED: dict[str, tuple[Script, dict[str, Any]]] = {
    "lifetime": (Script(), {"lifetime": 1e-6}),
    "idle": (Script(), {"idle": 1e-6}),
    "MAILMAX": (limits("MAILMAX=1"), {}),
    "over TLS": (Script(tls="implicit"), {"lifetime": 1e-6}),
}


@pytest.mark.anyio
@pytest.mark.parametrize("why", RETIRED)
async def test_retired(kind: str, why: str) -> None:
    """A session too old, too long idle, or at the server's limit is said QUIT, and the next mail begins another."""
    script, options = RETIRED[why]
    with Server(script) as server:
        if script.tls != "none":
            options = {**options, "ssl_context": server.client_context()}
        async with Way(kind, server.url, **options) as way:
            for _ in range(3):
                await way.send(to(1))
        assert [session for session, _ in received(server)] == [1, 2, 3]
        assert await farewells(server, 3) == [b"QUIT"] * 3


@pytest.mark.anyio
async def test_kept(kind: str) -> None:
    """Without limits a session goes on as long as anybody likes."""
    with Server(limits("MAILMAX=9")) as server:
        async with Way(kind, server.url, lifetime=float("inf"), idle=float("inf")) as way:
            for _ in range(9):
                await way.send(to(1))
        assert [session for session, _ in received(server)] == [1] * 9


@pytest.mark.anyio
async def test_after_errors(kind: str) -> None:
    """MAIL refused twice in a row: the next mail tries a session of its own; once is no more than a refusal."""
    refusal = "452 4.3.1 not now"
    replies = {"MAIL": [refusal, "250 ok", refusal, refusal, "250 ok"]}
    with Server(Script(replies=replies)) as server:
        async with Way(kind, server.url) as way:
            for _ in range(2):
                with pytest.raises(SenderRefused):
                    await way.send(to(1))
                if len(server.received) == 0:
                    await way.send(to(1))
            with pytest.raises(SenderRefused):
                await way.send(to(1))
            await way.send(to(1))
        assert [session for session, _ in received(server)] == [1, 2]
        assert await farewells(server, 2) == [b"QUIT"] * 2


@pytest.mark.anyio
async def test_nobody_waits_for_the_farewell(kind: str) -> None:
    """A server that never answers QUIT holds nobody up: the mail goes by its new session at once."""
    with Server(Script(replies={"QUIT": None})) as server:
        way = Way(kind, server.url, lifetime=1e-6, timeout=30)
        await way.send(to(1))
        with anyio.fail_after(20):
            await way.send(to(1))
        assert [session for session, _ in received(server)] == [1, 2]
        async with way:
            pass


@pytest.mark.anyio
async def test_a_server_that_has_left(kind: str) -> None:
    """An old session that the server has ended meanwhile is closed without a word."""
    with Server(Script(close_after=frozenset({"END"})), Script()) as server:
        async with Way(kind, server.url, lifetime=1e-6) as way:
            await way.send(to(1))
            await anyio.sleep(0.05)  # its end has arrived; if not, QUIT is said to nobody
            await way.send(to(1))
        assert [session for session, _ in received(server)] == [1, 2]


@pytest.mark.parametrize("kind", ["asyncio", "trio"])
def test_idle_ones_of_a_burst(kind: str) -> None:
    """What a burst has left idle is closed by the next mail, all at once, and nothing is left behind."""

    async def burst() -> str:
        async with Client(server.url, idle=0.2) as client:
            async with anyio.create_task_group() as tasks:
                for _ in range(5):
                    tasks.start_soon(client.send, MAIL, ANN, to(1))
            assert repr(client).endswith(f": 0 sessions busy, {len(server.sessions)} idle, 0 tasks waiting, at most 8>")
            await anyio.sleep(0.25)
            await client.send(MAIL, ANN, to(1))
            return repr(client)

    with Server() as server:
        assert anyio.run(burst, backend=kind).endswith(": 0 sessions busy, 1 idle, 0 tasks waiting, at most 8>")
        assert anyio.run(farewells, server, len(server.sessions)) == [b"QUIT"] * len(server.sessions)
        assert len(server.received) == 6


@pytest.mark.asyncio
async def test_one_that_makes_room_is_said_quit() -> None:
    """An idle session that is closed for the sake of another one hears QUIT."""
    with Server() as server:
        async with Client(server.url, connections=1) as client:
            await client.send(MAIL, ANN, to(1))
            await client.check()
            assert await farewells(server, 2) == [b"QUIT"] * 2


@pytest.mark.asyncio
async def test_nothing_is_left_when_none_can_be_opened() -> None:
    """The old session is closed in order also where no new one comes about."""
    with Server(Script(), Script(greeting="554 no")) as server:
        async with Client(server.url, lifetime=1e-6) as client:
            await client.send(MAIL, ANN, to(1))
            with pytest.raises((Refused, ConnectError)):
                await client.send(MAIL, ANN, to(1))
            assert repr(client).endswith("0 sessions busy, 0 idle, 0 tasks waiting, at most 8>")
        assert (await farewells(server, 1)) == [b"QUIT"]
