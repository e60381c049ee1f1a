"""Observers: order, isolation, subclass matching, and the bounded iterator on asyncio and trio."""

import functools
import logging
from typing import Any

import anyio
import pytest

from smtpkit.errors import Outcome, UsageError
from smtpkit.events import CommandSent, Event, EventsMissed, SessionClosed, Settled, TransferProgress, TransferStarted
from smtpkit.observers import Events, Observers


def sent(text: str, session: int = 1) -> CommandSent:
    """A command was sent."""
    return CommandSent(at=0.0, session=session, text=text, secured=False)


def progress(done: int, session: int = 1, item: object = "mail") -> TransferProgress:
    """Some of a transfer was done."""
    return TransferProgress(at=float(done), session=session, item=item, done=done, size=None, rate=1.0)


def closed(session: int = 1) -> SessionClosed:
    """A session ended."""
    return SessionClosed(at=9.0, session=session, reason=None)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Callbacks.


def test_heard() -> None:
    """Whether anybody listens is one attribute."""
    observers = Observers()
    assert not observers.heard
    off = observers.on(CommandSent, print)
    assert observers.heard
    off_all = observers.on(Event, print)
    off_all()
    off()
    off()
    assert not observers.heard


def test_kind_and_order() -> None:
    """Each callback hears its kind and the subclasses of it, in the order of emission and then of subscription."""
    observers = Observers()
    heard: list[tuple[str, Event]] = []
    observers.on(Event, lambda event: heard.append(("all", event)))
    observers.on(SessionClosed, lambda event: heard.append((str(event.reason), event)))
    events = [sent("NOOP"), closed(), sent("QUIT")]
    for event in events:
        observers.emit(event)
    assert heard == [("all", events[0]), ("all", events[1]), ("None", events[1]), ("all", events[2])]


def test_the_same_callback_twice() -> None:
    """A callback given twice is called twice, and each subscription ends by itself."""
    observers = Observers()
    heard: list[Event] = []
    off = observers.on(Event, heard.append)
    observers.on(Event, heard.append)
    observers.emit(closed())
    off()
    observers.emit(closed())
    assert len(heard) == 3


def test_a_callback_may_unsubscribe_and_subscribe() -> None:
    """Changes made by a callback count from the next event on."""
    observers = Observers()
    heard: list[str] = []

    def once(_: Event) -> None:
        heard.append("once")
        off()
        observers.on(Event, lambda _: heard.append("new"))

    off = observers.on(Event, once)
    observers.emit(closed())
    observers.emit(closed())
    assert heard == ["once", "new"]


def test_what_a_callback_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """A failing callback is logged with its traceback; the others are told all the same."""
    observers = Observers()
    heard: list[Event] = []
    observers.on(Event, lambda event: 1 / 0)
    observers.on(Event, heard.append)
    with caplog.at_level(logging.ERROR, logger="smtpkit"):
        observers.emit(closed())
    assert heard == [closed()]
    assert "a callback for SessionClosed failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_keyboard_interrupt_passes() -> None:
    """What is not an Exception passes, and the observers still work afterwards: nothing queued is lost."""
    observers = Observers()
    heard: list[Event] = []

    def stop(event: CommandSent) -> None:
        if event.text == "stop":
            observers.emit(sent("queued"))
            raise KeyboardInterrupt

    observers.on(CommandSent, stop)
    observers.on(CommandSent, heard.append)
    with pytest.raises(KeyboardInterrupt):
        observers.emit(sent("stop"))
    observers.emit(sent("later"))
    assert heard == [sent("queued"), sent("later")]


def test_emission_within_a_callback_is_queued() -> None:
    """What a callback emits is told after the present event, to everybody in the same order, without recursion."""
    observers = Observers()
    first: list[str] = []
    second: list[str] = []

    def chain(event: CommandSent) -> None:
        first.append(event.text)
        if len(first) < 5000:
            observers.emit(sent(str(len(first))))

    observers.on(CommandSent, chain)
    observers.on(CommandSent, lambda event: second.append(event.text))
    observers.emit(sent("0"))
    assert first == second == [str(number) for number in range(5000)]


class _AsyncCall:
    async def __call__(self, event: Event) -> None: ...


async def _coroutine(event: Event) -> None: ...


async def _generator(event: Event) -> Any:
    yield event


@pytest.mark.parametrize("callback", [_coroutine, _generator, functools.partial(_coroutine), _AsyncCall(), None, "x"])
def test_only_plain_functions(callback: Any) -> None:
    """A coroutine function, in any disguise, and what is no function at all is refused at once."""
    observers = Observers()
    with pytest.raises(UsageError, match="callback must be a"):
        observers.on(Event, callback)
    assert not observers.heard


@pytest.mark.parametrize("kind", [int, "Settled", closed(), None])
def test_only_classes_of_event(kind: Any) -> None:
    """A kind that is no class of event is refused, and the error names one."""
    with pytest.raises(UsageError, match="such as TransferProgress"):
        Observers().on(kind, print)


# The iterator.


@pytest.mark.anyio
async def test_iterates_in_order_and_ends() -> None:
    """Events come in order, also while the reader waits; leaving the block ends the iteration after what is held."""
    observers = Observers()
    read: list[Event] = []

    async def reader(events: Events) -> None:
        async for event in events:
            read.append(event)  # noqa: PERF401  one by one: the test looks while this runs

    async with anyio.create_task_group() as tasks:
        async with observers.events() as events:
            tasks.start_soon(reader, events)
            for number in range(3):
                observers.emit(sent(str(number)))
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            assert len(read) == 3
            observers.emit(sent("last"))
        assert not observers.heard
        observers.emit(sent("nobody"))
    assert read == [sent("0"), sent("1"), sent("2"), sent("last")]


@pytest.mark.anyio
async def test_close_ends_every_iterator() -> None:
    """When the client closes, waiting readers end, and leaving the blocks afterwards is fine."""
    observers = Observers()
    ended: list[int] = []

    async def reader(number: int) -> None:
        async with observers.events() as events:
            async for _ in events:
                pass
        ended.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(3):
            tasks.start_soon(reader, number)
        await anyio.wait_all_tasks_blocked()
        observers.close()
    assert sorted(ended) == [0, 1, 2]
    assert not observers.heard


@pytest.mark.anyio
async def test_cancelled_while_waiting() -> None:
    """A cancelled reader leaves nothing behind, and the same iterator still serves the next reader."""
    observers = Observers()
    async with observers.events() as events:
        with anyio.move_on_after(0):
            await anext(events)
        observers.emit(closed())
        assert await anext(events) == closed()


@pytest.mark.anyio
async def test_two_readers_share_one_iterator() -> None:
    """Two tasks that read one iterator are both woken; each event goes to one of them."""
    observers = Observers()
    read: list[Event] = []

    async def reader(events: Events) -> None:
        async for event in events:
            read.append(event)  # noqa: PERF401  one by one: the test looks while this runs

    async with anyio.create_task_group() as tasks, observers.events() as events:
        tasks.start_soon(reader, events)
        tasks.start_soon(reader, events)
        await anyio.wait_all_tasks_blocked()
        observers.emit(sent("0"))
        observers.emit(sent("1"))
        await anyio.wait_all_tasks_blocked()
        observers.close()
    assert sorted(event.text for event in read if isinstance(event, CommandSent)) == ["0", "1"]


async def held(*emitted: Event, buffer: int = 1024) -> list[Event]:
    """What an iterator gives that is read only after everything was emitted."""
    observers = Observers()
    async with observers.events(buffer) as events:
        for event in emitted:
            observers.emit(event)
    return [event async for event in events]


@pytest.mark.anyio
async def test_progress_is_merged() -> None:
    """Progress of one transfer that nobody has read is replaced by the later, also between other sessions' events."""
    read = await held(
        *(event for done in range(1, 500) for event in (progress(done), progress(done, session=2))),
        sent("x", session=3),
    )
    assert read == [progress(499), progress(499, session=2), sent("x", session=3)]


@pytest.mark.anyio
async def test_progress_of_two_transfers_is_not_merged() -> None:
    """Another item, or another event of the session in between, keeps the earlier progress."""
    begin = TransferStarted(at=0.0, session=1, item="mail", size=None)
    emitted = [progress(1), begin, progress(2), progress(3, item="other")]
    assert await held(*emitted) == emitted


@pytest.mark.anyio
async def test_a_full_buffer_drops_the_oldest_and_says_so() -> None:
    """Memory is bounded: the oldest events go, and how many is told first, with the time of the last one dropped."""
    read = await held(*(sent(str(number)) for number in range(10)), buffer=3)
    assert read == [EventsMissed(at=0.0, session=0, count=7), sent("7"), sent("8"), sent("9")]


@pytest.mark.anyio
async def test_missed_events_are_counted_anew() -> None:
    """Each gap is told once; a reader that keeps up afterwards is told of no more."""
    observers = Observers()
    async with observers.events(1) as events:
        for number in range(3):
            observers.emit(sent(str(number)))
        assert [await anext(events), await anext(events)] == [EventsMissed(at=0.0, session=0, count=2), sent("2")]
        observers.emit(sent("3"))
        assert await anext(events) == sent("3")


@pytest.mark.anyio
async def test_merging_outlives_dropping() -> None:
    """Progress whose predecessor was dropped or read already is simply the next event."""
    assert await held(progress(1), sent("x", session=2), progress(2), buffer=1) == [
        EventsMissed(at=0.0, session=0, count=2),
        progress(2),
    ]


@pytest.mark.anyio
async def test_buffer_must_be_positive() -> None:
    """A buffer of no events is refused."""
    with pytest.raises(UsageError, match="1 or more"):
        async with Observers().events(0):
            pass  # pragma: no cover


@pytest.mark.anyio
async def test_outcomes_are_handed_on_as_they_are() -> None:
    """The iterator hands on the very event that was emitted."""
    event = Settled(at=1.0, session=1, outcome=Outcome(accepted=("a@example.com",)))
    assert (await held(event))[0] is event
