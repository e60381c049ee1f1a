"""``send_many`` over several sessions: how they come and go, and that each mail is settled once whatever they meet."""

import math
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from smtpkit import Client, ConnectError, Mail, Outcome, ServiceClosing, UsageError
from smtpkit.testing import Fault, Script, Server

pytestmark = pytest.mark.anyio
LATE = {"END": 0.02}  # seconds: more sessions pay


def mails(count: int) -> list[Mail]:
    """Mails, each with its own sender."""
    octets = b"From: ann@example.com\r\nSubject: many\r\n\r\nhello\r\n"
    return [Mail(octets, f"s{number}@example.com", ["bob@example.com"]) for number in range(count)]


def received(server: Server) -> Counter[str]:
    """How often each mail was received, by its sender."""
    return Counter(mail.reverse_path for mail in server.received)


def once_each(items: list[Mail]) -> Counter[str | None]:
    """What is received when all is well."""
    return Counter(item.sender for item in items)


async def test_as_many_as_pay() -> None:
    """Where replies take their time the sessions double, up to ``connections``; each mail arrives once."""
    items, most = mails(400), 0
    with Server(Script(delay=LATE)) as server:
        async with Client(server.url, connections=4, chunking="never") as client:
            async with client.send_many(items) as outcomes:
                async for outcome in outcomes:
                    assert outcome.error is None
                    most = max(most, outcomes.sessions)
            assert "4 idle" in repr(client)
            assert outcomes.sessions == 0
    assert most == 4
    assert received(server) == once_each(items)
    assert len(server.sessions) == 4
    assert not any(session.errors for session in server.sessions)


async def test_no_more_than_were_asked_for() -> None:
    """``sessions`` is the limit where it is given; with one the mails go in their order."""
    items = mails(100)
    with Server(Script(delay=LATE)) as server:
        client = Client(server.url, connections=4, chunking="never")
        async with client, client.send_many(items, sessions=1) as outcomes:
            assert [outcome.item async for outcome in outcomes if outcomes.sessions <= 1] == items
    assert [mail.reverse_path for mail in server.received] == [item.sender for item in items]
    assert len(server.sessions) == 1


@pytest.mark.parametrize("sessions", [0, 9, -1])
async def test_a_number_of_sessions_that_cannot_be(sessions: int) -> None:
    """It is 1 to ``connections``, and the error says so."""
    async with Client("smtp://127.0.0.1:9") as client:
        with pytest.raises(UsageError, match="sessions: 1 to 8"):
            client.send_many([], sessions=sessions)


async def test_further_sessions_refused() -> None:
    """A server that takes two sessions and no more gets all mails over those two, and no mail fails for it."""
    items = mails(400)
    refusing = Script(replies={"GREETING": ["220 ready", "220 ready", "421 4.7.0 too many connections"]}, delay=LATE)
    with Server(refusing) as server:
        async with (
            Client(server.url, connections=8, chunking="never") as client,
            client.send_many(items) as outcomes,
        ):
            found = [outcome async for outcome in outcomes]
    assert not any(outcome.error for outcome in found)
    assert received(server) == once_each(items)


async def test_the_end_waits_for_no_further_session() -> None:
    """A session that is still being opened when the last mail is settled is given up."""
    with Server(Script(delay=LATE), Script(greeting=None)) as server:
        async with Client(server.url, connections=4, chunking="never", connect=math.inf) as client:
            async with client.send_many(mails(40)) as outcomes:
                assert len([outcome async for outcome in outcomes if outcome.accepted]) == 40
            assert len(server.sessions) > 1


async def test_no_session_at_all() -> None:
    """Where no session can be had each mail is an outcome that says so, as with one session."""
    async with Client("smtp://127.0.0.1:9", connections=4) as client, client.send_many(mails(20)) as outcomes:
        found = [outcome async for outcome in outcomes]
    assert len(found) == 20
    assert all(isinstance(outcome.error, ConnectError) for outcome in found)


async def test_a_session_that_dies_leaves_its_mails_to_others() -> None:
    """Some sessions end in the middle: nothing is lost, nothing arrives twice, and in doubt is what may be."""
    items = mails(600)
    faults = {f"MAIL:s{number}@example.com": Fault("close") for number in range(50, 600, 50)}
    with Server(Script(replies=dict(faults), delay=LATE)) as server:
        async with Client(server.url, connections=4) as client, client.send_many(items, window=8) as outcomes:
            found = [outcome async for outcome in outcomes]
    agree(items, found, received(server))


def agree(items: list[Mail], found: list[Outcome], arrived: Counter[str]) -> None:
    """Every mail has one outcome, and it is true."""
    assert Counter(id(outcome.item) for outcome in found) == Counter(map(id, items))
    for outcome in found:
        count = arrived[outcome.item.sender]
        right = count == 1 if outcome.accepted else count <= 1 if outcome.in_doubt else count == 0
        assert right, (count, outcome)


async def test_others_get_their_turn() -> None:
    """A long run does not keep the sessions from those who send one mail by the same client."""
    with Server(Script(delay=LATE)) as server:
        async with Client(server.url, connections=2, chunking="never", connect=5) as client:
            done = 0

            async def others() -> None:
                nonlocal done
                for item in mails(3):
                    await client.send(*item)
                    done += 1

            async with client.send_many(endless()) as outcomes, anyio.create_task_group() as tasks:
                tasks.start_soon(others)
                tasks.start_soon(others)
                async for outcome in outcomes:
                    assert outcome.error is None
                    if done == 6:
                        break
    assert done == 6


async def endless() -> AsyncIterator[Mail]:
    """Mails without end."""
    while True:
        for item in mails(100):
            yield item


async def test_a_session_is_no_older_for_being_in_a_run() -> None:
    """``lifetime`` counts from when the session was opened, not from when the run took it."""
    with Server(Script(delay={"END": 0.03})) as server:
        async with Client(server.url, connections=1, lifetime=1) as client:
            await client.send(mails(1)[0].message, "ann@example.com", "bob@example.com")
            await anyio.sleep(0.9)
            async with client.send_many(mails(40), window=1) as outcomes:
                assert len([outcome async for outcome in outcomes if outcome.accepted]) == 40
    assert 1 <= [mail.session for mail in server.received].count(1) < 20


async def test_two_runs_share_one_session() -> None:
    """Two ``send_many`` of a client with one session take turns."""
    with Server(Script(delay={"END": 0.005})) as server:
        async with Client(server.url, connections=1, chunking="never", connect=5) as client:
            found: list[Outcome] = []

            async def run() -> None:
                async with client.send_many(mails(150)) as outcomes:
                    found.extend([outcome async for outcome in outcomes])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run)
                tasks.start_soon(run)
    assert len(found) == 300
    assert not any(outcome.error for outcome in found)
    assert len(server.sessions) == 1


async def test_a_slow_reader_holds_the_mails_back() -> None:
    """No more than a window of outcomes is ahead of the reader, and a window of each session of the input."""
    taken = 0

    def given() -> Any:
        nonlocal taken
        for item in mails(10_000):
            taken += 1
            yield item

    with Server() as server:
        async with Client(server.url, connections=4) as client, client.send_many(given(), window=4) as outcomes:
            for read in range(1, 30):
                await anext(outcomes)
                await anyio.sleep(0.01)
                assert taken <= read + 4 + 4 * 4 + 4
    assert len(received(server)) == len(server.received) == taken - len(outcomes.unsent)


async def test_left_early_over_several_sessions() -> None:
    """What is under way on each session is settled; every mail of the list was read, is unread, or unsent."""
    items = mails(1000)
    with Server(Script(delay=LATE)) as server:
        async with Client(server.url, connections=4, chunking="never") as client:
            read = []
            async with client.send_many(items) as outcomes:
                async for outcome in outcomes:
                    read.append(outcome)
                    if outcomes.sessions == 4:
                        break
            settled = [*read, *outcomes.unread]
            assert Counter(map(id, [o.item for o in settled] + outcomes.unsent)) == Counter(map(id, items))
            assert received(server) == once_each([outcome.item for outcome in settled])
            assert "0 sessions busy" in repr(client)


@pytest.mark.parametrize("sessions", [1, 4])
async def test_left_while_the_input_keeps_quiet(sessions: int) -> None:
    """Leaving does not wait for the next mail of an async input, however long the limits are."""
    items, left = mails(2), anyio.Event()

    async def quiet() -> AsyncIterator[Mail]:
        try:
            for item in items:
                yield item
            await anyio.sleep_forever()
        finally:
            left.set()

    with Server() as server:
        async with Client(server.url, connections=4, timeout=math.inf) as client:
            async with client.send_many(quiet(), sessions=sessions) as outcomes:
                read = [await anext(outcomes)]
                await anyio.wait_all_tasks_blocked()
            assert left.is_set()
            assert [*(o.item for o in (*read, *outcomes.unread)), *outcomes.unsent] == items


@pytest.mark.parametrize("sessions", [1, 4])
async def test_nothing_is_read_in_vain(sessions: int) -> None:
    """Each item that was read of an async input was sent, or is listed, although more was read than had room."""
    items, taken = mails(40), []

    async def told() -> AsyncIterator[Mail]:
        for item in items:
            taken.append(item)
            yield item

    with Server() as server:
        async with Client(server.url, connections=4) as client:
            async with client.send_many(told(), sessions=sessions, window=2) as outcomes:
                read = [await anext(outcomes)]
                await anyio.wait_all_tasks_blocked()
            assert [*(o.item for o in (*read, *outcomes.unread)), *outcomes.unsent] == taken


async def test_cancelled_over_several_sessions() -> None:
    """Cancelled, all sessions are given up at once; what is unsent is listed, and what may be accepted is in doubt."""
    items = mails(1000)
    with Server(Script(delay=LATE)) as server:
        async with Client(server.url, connections=4, chunking="never") as client:
            found = []
            with anyio.move_on_after(1):
                async with client.send_many(items) as outcomes:
                    async for outcome in outcomes:
                        found.append(outcome)  # noqa: PERF401  a comprehension that is cancelled keeps nothing
            assert "0 sessions busy" in repr(client)
            found += outcomes.unread
            assert Counter(map(id, [o.item for o in found] + outcomes.unsent)) == Counter(map(id, items))
            unsent = {item.sender for item in outcomes.unsent}
            arrived = received(server)
    assert not unsent & set(arrived)
    agree([outcome.item for outcome in found], found, arrived)
    assert len(outcomes.unsent) > 500


async def test_left_while_a_session_is_silent() -> None:
    """Leaving waits no longer than ``timeout``; the silent mail is in doubt and the others are settled."""
    items = mails(8)
    script = Script(replies={"END": ["250 ok", Fault("stall")]})
    with Server(script) as server:
        async with Client(server.url, connections=2, chunking="never", timeout=0.5) as client:
            async with client.send_many(items) as outcomes:
                assert (await anext(outcomes)).accepted
            doubtful = [outcome for outcome in outcomes.unread if outcome.in_doubt]
            assert [outcome.item for outcome in doubtful] == [items[1]]
            assert outcomes.unsent == items[2:]
            assert "0 sessions busy" in repr(client)


async def test_left_while_there_is_no_room() -> None:
    """Leaving does not wait for a lane that is about to wait for its reader."""
    with Server(Script(delay={"END": 0.05})) as server:
        client = Client(server.url, connections=4, timeout=math.inf)
        async with client, client.send_many(mails(200), window=4) as outcomes:
            await anext(outcomes)
            while len(outcomes.unread) <= 4:  # noqa: ASYNC110  it is a list that grows
                await anyio.sleep(0.001)
        assert len(server.received) == 1 + len(outcomes.unread)


async def test_421_ends_a_session_and_no_mail() -> None:
    """A server that says 421 now and then: the mails go over another session."""
    items = mails(300)
    replies: Any = {f"MAIL:s{number}@example.com": ["421 4.3.2 moving", "250 ok"] for number in range(20, 300, 40)}
    with Server(Script(replies=replies, delay=LATE)) as server:
        async with Client(server.url, connections=4) as client, client.send_many(items, window=4) as outcomes:
            found = [outcome async for outcome in outcomes]
    agree(items, found, received(server))
    assert not [outcome for outcome in found if not isinstance(outcome.error, ServiceClosing | None)]
