"""``send_many`` of both clients, over sockets: its input and its end, its back-pressure, its events."""

import gc
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from email import message_from_bytes
from email.policy import default
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from smtpkit import Client, InDoubt, InvalidMail, Mail, Settled, SyncClient, UsageError
from smtpkit.options import OptionKeywords
from smtpkit.testing import Dialogue, Fault, Script, Send, Server
from tests.peers import peer

COUNT = 100
LONG = "250 2.0.0 " + "x" * 188


def mails(count: int = COUNT) -> list[Mail]:
    """Mails, each with its own sender."""
    octets = b"From: ann@example.com\r\nSubject: many\r\n\r\nhello\r\n"
    return [Mail(octets, f"s{number}@example.com", ["bob@example.com"]) for number in range(count)]


def senders(server: Server) -> list[str]:
    """Of the mails that were received."""
    return [mail.reverse_path for mail in server.received]


async def one_by_one(items: list[Mail]) -> AsyncIterator[Mail]:
    """An input that gives the loop a turn before each mail."""
    for item in items:
        await anyio.lowlevel.checkpoint()
        yield item


@pytest.mark.anyio
@pytest.mark.parametrize("source", ["list", "iterator", "async iterator"])
async def test_any_input(source: str) -> None:
    """A list, an iterator or an async iterator; all arrive in order, over one session, which serves others then."""
    items = mails()
    given: Any = {"list": items, "iterator": iter(items), "async iterator": one_by_one(items)}[source]
    with Server() as server:
        async with Client(server.url, connections=1) as client:
            async with client.send_many(given) as outcomes:
                settled = [outcome async for outcome in outcomes]
            await client.send(*mails(1)[0])
        assert [outcome.item for outcome in settled] == items
        assert not any(outcome.error for outcome in settled)
        assert not outcomes.unsent
        assert not outcomes.unread
        assert senders(server)[:COUNT] == [item.sender for item in items]
        assert len(server.sessions) == 1
        assert not server.sessions[0].errors


@pytest.mark.anyio
async def test_an_outcome_does_not_wait_for_the_next_mail() -> None:
    """Where the input has nothing yet, what was sent is settled meanwhile."""
    seen: list[Any] = []
    heard = [anyio.Event() for _ in range(3)]

    async def slow() -> AsyncIterator[Mail]:
        for item, event in zip(mails(3), heard, strict=True):
            yield item
            with anyio.fail_after(5):
                await event.wait()

    with Server() as server:
        async with Client(server.url) as client, client.send_many(slow()) as outcomes:
            async for outcome in outcomes:
                heard[len(seen)].set()
                seen.append(outcome)
    assert len(seen) == 3


@pytest.mark.anyio
async def test_a_charset_that_nobody_knows() -> None:
    """A mail that has no form in 7 bits for want of its charset is an outcome, and the others go."""
    header = b"Content-Type: text/plain; charset=bogus\r\nContent-Transfer-Encoding: 8bit\r\n\r\n"
    strange = message_from_bytes(header + b"h\xc3\xa9\r\n", policy=default)
    items = [*mails()[:9], Mail(strange, "ann@example.com", "bob@example.com"), *mails()[9:]]
    with Server(Script(extensions=("PIPELINING",))) as server:
        async with Client(server.url) as client, client.send_many(items) as outcomes:
            failed = [outcome async for outcome in outcomes if outcome.error]
    assert [type(outcome.error) for outcome in failed] == [InvalidMail]
    assert failed[0].item is items[9]
    assert len(server.received) == COUNT


@pytest.mark.anyio
@pytest.mark.parametrize("listed", [True, False])
async def test_left_early(listed: bool) -> None:  # noqa: FBT001
    """Leaving the block stops the input; each mail that was taken was sent, or is listed."""
    items = mails()
    with Server() as server:
        async with Client(server.url) as client:
            read = []
            async with client.send_many(items if listed else one_by_one(items), sessions=1) as outcomes:
                async for outcome in outcomes:
                    read.append(outcome)
                    if len(read) == 9:
                        break
            sent = [outcome.item for outcome in [*read, *outcomes.unread]]
            assert senders(server) == [item.sender for item in sent]
            together = [*sent, *outcomes.unsent]
            assert together == items[: len(together)]
            assert len(together) == COUNT or not listed
            assert "0 sessions busy" in repr(client)


@pytest.mark.anyio
async def test_an_error_in_the_block_is_raised_as_it_is() -> None:
    """What the caller raises comes out, not in a group, after what was under way has been settled."""
    with Server() as server:
        async with Client(server.url) as client:
            with pytest.raises(LookupError, match="mine"):  # noqa: PT012 - it is about the block
                async with client.send_many(one_by_one(mails())) as outcomes:
                    async for _ in outcomes:
                        raise LookupError("mine")
            assert len(server.received) == 1 + len(outcomes.unread)


@pytest.mark.anyio
async def test_what_an_async_input_raises() -> None:
    """It is raised as it is, after the outcomes of the mails before it."""

    async def failing() -> AsyncIterator[Mail]:
        for item in mails(5):
            yield item
        raise LookupError("no more rows")

    with Server() as server:
        async with Client(server.url) as client, client.send_many(failing()) as outcomes:
            seen = 0
            with pytest.raises(LookupError, match="rows"):  # noqa: PT012 - it is about the loop
                async for _ in outcomes:
                    seen += 1
            assert seen == 5
    assert len(server.received) == 5


@pytest.mark.anyio
async def test_a_generator_within_the_input_is_closed() -> None:
    """An input whose ``__aiter__`` makes a generator is left before its end: that is closed when the block is."""
    closed = anyio.Event()

    class Source:
        async def __aiter__(self) -> AsyncIterator[Mail]:
            try:
                for item in mails():
                    yield item
            finally:
                await anyio.lowlevel.checkpoint()
                closed.set()

    with Server() as server:
        async with Client(server.url) as client:
            async with client.send_many(Source(), window=2) as outcomes:
                await anext(outcomes)
            assert closed.is_set()


@pytest.mark.anyio
async def test_cancelled() -> None:
    """Cancelled while it waits for a reply, what was said whole is in doubt and told so; nothing is left behind."""
    told: list[Settled] = []
    script = Script(replies={"END": ["250 2.0.0 ok", Fault("stall")]})
    with Server(script) as server:
        async with Client(server.url, chunking="never") as client:
            client.on(Settled, told.append)
            with anyio.move_on_after(0.5):
                async with client.send_many(mails(9)) as outcomes:
                    async for _ in outcomes:
                        pass
            assert "0 sessions busy" in repr(client)
    doubtful = [event.outcome for event in told if event.outcome.in_doubt]
    assert [outcome.item.sender for outcome in doubtful] == ["s1@example.com"]
    assert isinstance(doubtful[0].error, InDoubt)
    assert len(told) == 2 + len(outcomes.unread) - len(doubtful)


@pytest.mark.anyio
async def test_settled_is_told_of_each() -> None:
    """Every mail has one event, refused and invalid ones too, each with its item."""
    items: list[Any] = [*mails(5), b"no header", Mail(mails(1)[0].message, "s9@example.com", ["bad@example.com"])]
    told: list[Settled] = []
    with Server(Script(replies={"RCPT:bad@example.com": "550 5.1.1 no"})) as server:
        async with Client(server.url) as client:
            client.on(Settled, told.append)
            async with client.send_many(items) as outcomes:
                settled = [outcome async for outcome in outcomes]
    assert [event.outcome for event in told] == settled
    assert sorted(map(id, (event.item for event in told))) == sorted(map(id, items))
    assert sum(isinstance(outcome.error, InvalidMail) for outcome in settled) == 1


def test_sync_client() -> None:
    """The same by hand: from a generator, another call within the block, left early, and the session used again."""
    items = mails()
    taken = 0

    def given() -> Iterator[Mail]:
        nonlocal taken
        for item in items:
            taken += 1
            yield item

    with Server() as server, SyncClient(server.url) as client:
        with client.send_many(given(), window=8) as outcomes:
            for number, outcome in enumerate(outcomes):
                assert outcome.item is items[number]
                assert taken <= number + 1 + 8
                if number == 3:
                    client.noop()
                if number == 50:
                    break
        assert senders(server) == [item.sender for item in items[: 51 + len(outcomes.unread)]]
        assert items[51 + len(outcomes.unread) : taken] == outcomes.unsent
        with client.send_many(items[:5]) as outcomes:
            assert len(list(outcomes)) == 5
        assert len(server.sessions) == 2


def test_sync_client_takes_no_async_iterable() -> None:
    """It names the client that does."""
    with SyncClient("smtp://127.0.0.1:9") as client, pytest.raises(UsageError, match="works with Client only"):
        client.send_many(one_by_one([]))  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_a_block_is_needed() -> None:
    """Without a block nobody would settle what is under way when it is left, so that nothing is begun."""
    for given in (mails(1), one_by_one(mails(1))):
        async with Client("smtp://127.0.0.1:9") as client:
            with pytest.raises(UsageError, match="async with"):
                await anext(client.send_many(given))
            if isinstance(given, AsyncGenerator):
                await given.aclose()
    with SyncClient("smtp://127.0.0.1:9") as sync, pytest.raises(UsageError, match="with client"):
        next(sync.send_many(mails(1)))


@pytest.mark.anyio
async def test_one_task_asks_at_a_time() -> None:
    """Another that asks for the next outcome meanwhile is refused, and harms nothing."""
    with Server(Script(delay={"END": 0.1})) as server:
        async with Client(server.url) as client, client.send_many(mails(3)) as outcomes:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(anext, outcomes)
                await anyio.sleep(0.05)
                with pytest.raises(UsageError, match="busy"):
                    await anext(outcomes)
            assert len([outcome async for outcome in outcomes if outcome.accepted]) == 2


def test_a_slow_input_holds_nothing_back() -> None:
    """A mail that was begun is on its way while the input keeps its caller waiting for the next."""
    with Server() as server, SyncClient(server.url) as client:

        def waiting() -> Iterator[Mail]:
            for number, item in enumerate(mails(20)):
                time.sleep(0.002)
                if number > 1:
                    server.wait_for(number, timeout=5)
                yield item

        with client.send_many(waiting()) as outcomes:
            assert sum(outcome.error is None for outcome in outcomes) == 20


def blocking_server(connection: socket.socket) -> None:
    """A server that neither reads while it writes nor writes while it reads, with long replies."""
    dialogue = Dialogue(Script(replies=dict.fromkeys(("MAIL", "RCPT", "RSET", "END"), LONG)))

    def do(actions: Any) -> None:
        for action in actions:
            if isinstance(action, Send):
                connection.sendall(action.octets)

    do(dialogue.begin())
    while octets := connection.recv(1024):
        do(dialogue.receive(octets))


@pytest.mark.anyio
async def test_no_dead_lock() -> None:
    """A window of 512 and replies of 200 octets do not dead-lock over small buffers, on asyncio and trio."""
    with peer(blocking_server, small_buffers=True) as port:
        client = Client(f"smtp://127.0.0.1:{port}", tls="none")
        async with client, client.send_many(mails(1500), window=512) as outcomes:
            settled = [outcome async for outcome in outcomes]
    assert len(settled) == 1500
    assert not any(outcome.error for outcome in settled)


def test_no_dead_lock_in_the_sync_client() -> None:
    """Nor over a blocking socket."""
    with peer(blocking_server, small_buffers=True) as port:
        client = SyncClient(f"smtp://127.0.0.1:{port}", tls="none")
        with client, client.send_many(mails(1500), window=512) as outcomes:
            assert sum(outcome.error is None for outcome in outcomes) == 1500


@pytest.mark.parametrize("options", [{}, {"chunking": "never"}], ids=["bdat", "data"])
def test_memory_does_not_grow_with_the_number_of_mails(options: OptionKeywords) -> None:
    """After a thousand mails the library holds no more objects than after two hundred."""
    with Server(Script(keep="digest")) as server, SyncClient(server.url, **options) as client:
        item = mails(1)[0]
        with client.send_many(item for _ in range(1200)) as outcomes:
            counts = []
            for number, _ in enumerate(outcomes):
                if number in (200, 1100):
                    gc.collect()
                    rooms = [str(type(one).__module__) for one in gc.get_objects()]
                    counts.append(sum(room.startswith("smtpkit.") and "testing" not in room for room in rooms))
    assert counts[1] - counts[0] < 100
