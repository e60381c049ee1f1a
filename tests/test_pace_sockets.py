"""The pace of mails as a server sees it, by the moments at which it hears RCPT; and turns that are given back."""

import threading
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Self

import anyio
import pytest

from smtpkit import Client, InvalidMail, Outcome, RecipientsRefused, Settled, SyncClient, TimedOut, UsageError
from smtpkit.testing import Occurrence, Script, Server

A, B, C = "a.example", "b.example", "c.example"
MAIL = b"From: ann@example.com\r\nTo: %b\r\n\r\nhello\r\n"


def mail(*domains: str) -> bytes:
    return MAIL % ", ".join(f"bob@{domain}" for domain in domains).encode()


class Watched:
    """A server that notes when it hears RCPT for each domain. ``refused``: its how manieth of which domain is."""

    def __init__(self, **script: Any) -> None:
        self.refused: tuple[str, int] | None = None
        self.heard: list[str] = []  # the domains, in order
        self.times: defaultdict[str, list[float]] = defaultdict(list)
        self.server = Server(Script(replies={"RCPT": self._hear, **script.pop("replies", {})}, **script))

    def _hear(self, what: Occurrence) -> str:
        domain = what.line.partition(b"@")[2].rstrip(b">").decode()
        self.heard.append(domain)
        self.times[domain].append(time.monotonic())
        if self.refused == (domain, len(self.times[domain])):
            return "451 4.3.2 not so fast"
        return "250 2.1.5 ok"


@contextmanager
def watched(**script: Any) -> Iterator[Watched]:
    found = Watched(**script)
    with found.server:
        yield found


class Stalls:
    """How long a thread that is to wake every 5 ms was late by more than 10: for so long the machine did other work."""

    def __init__(self) -> None:
        self.found = [0.0]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(0.005):
            now = time.monotonic()
            if now - before > 0.015:
                self.found.append(now - before)
            before = now

    def judge(self, times: list[float], rate: float, within: float = 0.01) -> None:
        """At most rate + 1 in any second, and the mean is the rate; where the machine stalled not quite as exactly."""
        most = max(bisect_left(times, time + 1) - index for index, time in enumerate(times))
        assert most <= rate + 1 + rate * max(self.found), self.found
        wanted = (len(times) - 1) / rate
        assert (1 - within) * wanted - max(self.found) <= times[-1] - times[0], self.found
        assert times[-1] - times[0] <= (1 + within) * wanted + 3 * sum(self.found), self.found


@pytest.mark.anyio
async def test_pace_at_the_server() -> None:
    """Many tasks send to three domains: each is served evenly at its rate, but for the one that refuses at half of it.

    Of no domain does the server hear more than rate + 1 mails in any second; the mean is within 1 %.
    """
    others = [f"d{number}.example" for number in range(8)]
    with watched(delay={f"RCPT:bob@{domain}": 0.2 for domain in others}) as seen, ExitStack() as exits:
        seen.refused = (C, 20)
        refused: list[RecipientsRefused] = []
        async with Client(seen.server.url, domain_rate=20, mail_rate=1000) as client:

            async def send(domain: str) -> None:
                try:
                    await client.send(mail(domain))
                except RecipientsRefused as error:
                    refused.append(error)

            async with anyio.create_task_group() as tasks:  # for each a session is opened
                for domain in others:
                    tasks.start_soon(send, domain)
            assert len(seen.server.sessions) == 8
            async with anyio.create_task_group() as tasks:
                stalls = exits.enter_context(Stalls())
                for domain, count in ((A, 81), (B, 81), (C, 50)):
                    for _ in range(count):
                        tasks.start_soon(send, domain)
    assert [error.reply.hint for error in refused] == ["slower"]
    stalls.judge(seen.times[A], 20)
    stalls.judge(seen.times[B], 20)
    stalls.judge(seen.times[C][:20], 20, within=0.05)
    stalls.judge(seen.times[C][20:], 10, within=0.05)


@pytest.mark.anyio
async def test_sessions_that_take_long_to_open() -> None:
    """Where the first session takes longer to open than the next ones, and so on, their mails do not go all at once."""
    with watched() as seen, Stalls() as stalls:
        seen.server.scripts = tuple(
            replace(seen.server.scripts[0], delay={"greeting": delay}) for delay in (0.4, 0.3, 0.2, 0.1, 0.0)
        )
        async with Client(seen.server.url, domain_rate=10) as client, anyio.create_task_group() as tasks:
            for _ in range(15):
                tasks.start_soon(client.send, mail(A))
    assert len(seen.server.sessions) >= 3
    assert len(seen.times[A]) == 15
    stalls.judge(seen.times[A], 10, within=0.5)  # they begin later


def test_pace_of_threads() -> None:
    """Three threads share a SyncClient: all together keep to ``mail_rate``, and the mean is the rate."""
    with watched() as seen, SyncClient(seen.server.url, mail_rate=40) as client, Stalls() as stalls:

        def send(domain: str) -> None:
            for _ in range(27):
                client.send(mail(domain))

        threads = [threading.Thread(target=send, args=(domain,)) for domain in (A, B, C)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        times = sorted(time for times in seen.times.values() for time in times)
        assert len(times) == 81
    stalls.judge(times, 40, within=0.02)


@pytest.mark.anyio
async def test_who_waits_holds_no_session() -> None:
    """With one session for all, a mail that waits for its turn lets another go first, and its session rests."""
    with watched() as seen:
        client = Client(seen.server.url, connections=1, domain_rate=4)
        async with client, anyio.create_task_group() as tasks:
            for domain in (A, A, B):
                tasks.start_soon(client.send, mail(domain))
            await seen.server.wait_for_async(2)
            await anyio.wait_all_tasks_blocked()
            assert repr(client).endswith("0 sessions busy, 1 idle, 0 tasks waiting, at most 1>")
    assert sorted(seen.heard[:2]) == [A, B]
    assert seen.heard[2] == A
    assert len(seen.server.sessions) == 1


def test_a_thread_that_waits_holds_no_session() -> None:
    """While a thread waits for its turn with a SyncClient, another sends with it."""
    with watched() as seen, SyncClient(seen.server.url, domain_rate=2) as client:
        client.send(mail(A))
        thread = threading.Thread(target=client.send, args=(mail(A),))
        thread.start()
        client.send(mail(B))
        thread.join(20)
    assert seen.heard == [A, B, A]


@pytest.mark.anyio
async def test_turns_are_given_back() -> None:
    """A turn is given back by who is cancelled while it waits, and by who is while its mail is under way."""
    with watched(replies={"END": [None, "250 2.0.0 ok"]}) as seen:
        async with Client(seen.server.url, domain_connections=1) as client:
            scopes: dict[str, anyio.CancelScope] = {}
            done: list[str] = []

            async def send(name: str, *domains: str) -> None:
                with anyio.CancelScope() as scopes[name]:
                    await client.send(mail(*domains))
                    done.append(name)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(send, "under way", A)
                with anyio.fail_after(10):
                    while seen.heard != [A]:  # noqa: ASYNC110 - it is the server that is waited for
                        await anyio.sleep(0.002)
                for name, domains in (("waits", (A,)), ("waits for both", (A, B)), ("follows", (A,))):
                    tasks.start_soon(send, name, *domains)
                    await anyio.wait_all_tasks_blocked()
                scopes["waits"].cancel()
                scopes["waits for both"].cancel()
                await client.send(mail(B))
                assert seen.heard == [A, B]
                assert not done
                scopes["under way"].cancel()
            assert done == ["follows"]
            with pytest.raises(InvalidMail):
                await client.send(iter([b"x", 3]), "ann@example.com", "bob@" + A)  # type: ignore[arg-type]
            await client.send(mail(A, B))
    assert seen.heard == [A, B, A, A, B]


@pytest.mark.anyio
async def test_the_total_limit_holds() -> None:
    """Who has waited for its turn as long as a call may take is told so, and nothing of its mail was said."""
    with watched() as seen:
        settled: list[Settled] = []
        async with Client(seen.server.url, domain_rate=0.1, total=0.2) as client:
            client.on(Settled, settled.append)
            await client.send(mail(A))
            with pytest.raises(TimedOut, match=r"the mail to a\.example waited for its turn") as caught:
                await client.send(mail(A))
            await client.send(mail(B))
    assert caught.value.limit == "total"
    assert caught.value.outcome == settled[1].outcome == Outcome(item=mail(A), error=caught.value)
    assert seen.heard == [A, B]


@pytest.mark.anyio
async def test_closed_while_waiting() -> None:
    """Who waits for a turn when the client is closed is told so at once."""
    with watched() as seen:
        client = Client(seen.server.url, domain_rate=0.001)
        await client.send(mail(A))
        errors: list[UsageError] = []

        async def send() -> None:
            try:
                await client.send(mail(A))
            except UsageError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            await client.aclose()
        with pytest.raises(UsageError, match="the client is closed"):
            await client.send(mail(A))
    assert len(errors) == 2
    assert seen.heard == [A]


def test_closed_while_a_thread_waits() -> None:
    """The same for a thread that waits with a SyncClient."""
    with watched() as seen:
        client = SyncClient(seen.server.url, domain_rate=0.001)
        client.send(mail(A))
        waiting = threading.Event()
        errors: list[UsageError] = []

        def send() -> None:
            waiting.set()
            try:
                client.send(mail(A))
            except UsageError as error:
                errors.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        assert waiting.wait(10)
        client.close()
        thread.join(10)
    assert [str(error) for error in errors] == ["the client is closed; make a new one"]
    assert seen.heard == [A]


def test_after_a_fork() -> None:
    """In a child nobody waits for the turns of its parent's threads."""
    with watched() as seen, SyncClient(seen.server.url, domain_connections=1) as client:
        assert client._pace.ask((A,), time.monotonic()) == 0  # of a thread that is sending
        client._process = 0
        client.send(mail(A))
    assert seen.heard == [A]


def test_a_callback_finds_it_busy_still() -> None:
    """A callback cannot use the client whose call it is told of, also where that has waited for its turn."""
    with watched() as seen, SyncClient(seen.server.url, domain_rate=20) as client:
        errors: list[UsageError] = []

        def again(event: Settled) -> None:
            try:
                client.send(mail(A))
            except UsageError as error:
                errors.append(error)

        client.on(Settled, again)
        client.send(mail(A))
        client.send(mail(A))
    assert ["busy" in str(error) for error in errors] == [True, True]
    assert seen.heard == [A, A]


@pytest.mark.anyio
async def test_send_many_at_the_server() -> None:
    """Several sessions of ``send_many`` keep a domain's pace together; a refusal halves it, and holds up no other."""
    with watched() as seen, Stalls() as stalls:
        seen.refused = (B, 20)
        items = [mail(A if number % 2 else B) for number in range(122)] + [mail(C)]
        client = Client(seen.server.url, domain_rate=20, connections=4)
        async with client, client.send_many(items) as outcomes:
            refused = [outcome async for outcome in outcomes if outcome.error]
    assert len(refused) == 1
    stalls.judge(seen.times[A], 20)
    stalls.judge(seen.times[B][:20], 20, within=0.05)
    stalls.judge(seen.times[B][20:], 10, within=0.05)
    assert seen.times[C][0] < seen.times[A][40]


@pytest.mark.anyio
async def test_a_mail_waits_for_no_run_of_many() -> None:
    """Who sends one mail while a run has the pace is the next; the run has what is left."""

    async def read(outcomes: Any) -> None:
        async for _ in outcomes:
            pass

    with watched() as seen:
        async with (
            Client(seen.server.url, connections=2, mail_rate=40) as client,
            client.send_many([mail(A)] * 1000, sessions=1) as outcomes,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(read, outcomes)
            for number in range(5):
                begun = len(seen.times[A])
                await client.send(mail(B))
                assert len(seen.times[A]) - begun <= 5
                assert len(seen.times[B]) == number + 1
                await anyio.sleep(0.06)
            assert len(seen.times[A]) >= 5
            tasks.cancel_scope.cancel()


def test_a_thread_waits_for_no_run_of_many() -> None:
    """While one thread's run of mails waits for its pace, another's mail goes."""
    with watched() as seen, SyncClient(seen.server.url, mail_rate=40) as client:
        counts, over = [], threading.Event()

        def send() -> None:
            for _ in range(5):
                begun = len(seen.times[A])
                client.send(mail(B))
                counts.append(len(seen.times[A]) - begun)
                time.sleep(0.06)
            over.set()

        other = threading.Thread(target=send)
        with client.send_many([mail(A)] * 1000) as outcomes:
            next(outcomes)
            other.start()
            for _ in outcomes:
                if over.is_set():
                    break
        other.join()
    assert len(counts) == len(seen.times[B]) == 5
    assert max(counts) <= 5
    assert len(seen.times[A]) >= 5


def test_one_thread_reads_the_outcomes_at_a_time() -> None:
    """A second one that asks while the first waits is told so."""
    with watched() as seen, SyncClient(seen.server.url, mail_rate=2) as client, client.send_many([mail(A)] * 3) as some:
        next(some)
        other = threading.Thread(target=next, args=[some])
        other.start()
        while not some._reading:
            time.sleep(0.001)
        with pytest.raises(UsageError, match="busy: another thread"):
            next(some)
        other.join()
