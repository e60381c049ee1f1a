"""Events to callbacks and to async iterators; whatever an observer does, the mail goes on.

Rules: an event is told synchronously, in the thread that emits it, in the order of emission. No observer is waited for.
"""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import TYPE_CHECKING, Any, Self, TypeVar

from smtpkit.errors import UsageError
from smtpkit.events import Event, EventsMissed, TransferProgress

if TYPE_CHECKING:
    import anyio

E = TypeVar("E", bound=Event)
Callback = Callable[[Any], object]


class Observers:
    """Who hears the events of one client.

    ``heard`` is whether anybody listens at all: where it is False an event need not even be made.
    """

    __slots__ = ("_listeners", "_open", "_telling", "_told", "_untold", "heard")

    def __init__(self) -> None:
        self.heard = False
        self._listeners: list[tuple[type[Event], Callback]] = []
        self._told: dict[type[Event], tuple[Callback, ...]] = {}  # by exact type; made when first needed
        self._untold: deque[Event] = deque()
        self._telling = False
        self._open: list[Events] = []

    def on(self, kind: type[E], callback: Callable[[E], object]) -> Callable[[], None]:
        """Call a plain function with each event of this kind, from the next event on.

        ``kind`` includes its subclasses; ``Event`` means all. What the callback raises is logged ("smtpkit") and
        changes nothing. Returns the function that ends it, which may be called twice. Raises UsageError.
        """
        if not _is_event_class(kind):
            raise UsageError(f"kind must be a class of event, such as TransferProgress, not {kind!r}")
        if not callable(callback):
            raise UsageError(f"callback must be a function that takes the event, not {callback!r}")
        if _is_async(callback) or _is_async(type(callback).__call__):
            raise UsageError("callback must be a plain function: nothing awaits it; use `async with client.events()`")
        listener: tuple[type[Event], Callback] = (kind, callback)
        self._set([*self._listeners, listener])

        def off() -> None:
            self._set([other for other in self._listeners if other is not listener])

        return off

    def emit(self, event: Event) -> None:
        """Tell everybody now. What is emitted by a callback is told after this event, not within it."""
        self._untold.append(event)
        if self._telling:
            return
        self._telling = True
        try:
            while self._untold:
                event = self._untold.popleft()
                for callback in self._whom(type(event)):
                    try:
                        callback(event)
                    except Exception:
                        from logging import getLogger

                        getLogger("smtpkit").exception("a callback for %s failed", type(event).__name__)
        finally:
            self._telling = False  # what KeyboardInterrupt left untold is told with the next event

    @asynccontextmanager
    async def events(self, buffer: int = 1024) -> "AsyncIterator[Events]":
        """An async iterator of all events, in a context; at most ``buffer`` wait in it. For asyncio and trio."""
        events = Events(buffer)
        off = self.on(Event, events.put)
        self._open.append(events)
        try:
            yield events
        finally:
            off()
            self._open.remove(events)
            events.close()

    def close(self) -> None:
        """The client ends: so do the iterators, after what they still hold. Callbacks stay."""
        for events in self._open:
            events.close()

    def _set(self, listeners: list[tuple[type[Event], Callback]]) -> None:
        self._listeners = listeners
        self._told = {}
        self.heard = bool(listeners)

    def _whom(self, kind: type[Event]) -> tuple[Callback, ...]:
        if (callbacks := self._told.get(kind)) is None:
            callbacks = tuple(callback for wanted, callback in self._listeners if issubclass(kind, wanted))
            self._told[kind] = callbacks
        return callbacks


def _is_event_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Event)


def _is_async(function: object) -> bool:
    return iscoroutinefunction(function) or isasyncgenfunction(function)


class Events:
    """An async iterator over events with a fixed buffer: it takes what comes and never makes the mail wait.

    Progress that nobody has read yet is replaced by the later progress of the same transfer. When the buffer is full
    the oldest event is dropped, and the next one read is EventsMissed (``session`` 0: it belongs to none) with how many
    were. After ``close`` it ends, once what it holds is read.
    """

    __slots__ = ("_arrived", "_buffer", "_closed", "_missed", "_number", "_progress", "_size")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise UsageError(f"buffer must be a whole number of events, 1 or more, not {size!r}")
        self._size = size
        self._buffer: OrderedDict[int, Event] = OrderedDict()  # by number: one may be taken out of the middle
        self._number = 0
        self._progress: dict[int, int] = {}  # session: the number of its latest event, where that is progress
        self._missed: EventsMissed | None = None
        self._arrived: anyio.Event | None = None
        self._closed = False

    def put(self, event: Event) -> None:
        """Take an event; never waits. From the loop's own thread only."""
        self._number += 1
        if isinstance(event, TransferProgress):
            earlier = self._progress.get(event.session, 0)
            if earlier in self._buffer and self._buffer[earlier].item is event.item:
                del self._buffer[earlier]
            self._progress[event.session] = self._number
        else:
            self._progress.pop(event.session, None)
        self._buffer[self._number] = event
        if len(self._buffer) > self._size:
            _, oldest = self._buffer.popitem(last=False)
            count = self._missed.count + 1 if self._missed else 1
            self._missed = EventsMissed(at=oldest.at, session=0, count=count)
        self._wake()

    def close(self) -> None:
        """Nothing more will come."""
        self._closed = True
        self._wake()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._buffer:
            if self._closed:
                raise StopAsyncIteration
            if self._arrived is None:
                import anyio

                self._arrived = anyio.Event()
            await self._arrived.wait()
        if self._missed:
            missed, self._missed = self._missed, None
            return missed
        _, event = self._buffer.popitem(last=False)
        return event

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = None
