"""Where items come from, one at a time: any iterable, or an async one that a task reads a little ahead."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from smtpkit.errors import UsageError

if TYPE_CHECKING:
    import anyio
    import anyio.abc


class Nothing(Enum):
    """What a feed gives where it has no item."""

    YET = "none has come yet"
    MORE = "none will come"


class Feed(Protocol):
    """Where the items come from."""

    @property
    def ahead(self) -> bool:
        """Is there an item that would not have to be waited for?"""

    def begin(self, tasks: "anyio.abc.TaskGroup") -> None:
        """Begin to read, where that needs a task."""

    def stop(self) -> None:
        """Read no more; whoever waits for an item is told that there are none."""

    async def take(self, *, wait: bool) -> Any:
        """The next item, Nothing.MORE at the end; Nothing.YET if that had to be waited for and is not to be.

        Raises what the input does, once, after all that came before.
        """

    def rest(self) -> list[Any]:
        """The items at hand that nobody has taken; none are taken after that."""


class Iterated:
    """A feed from an iterable, which is read where the caller is."""

    ahead = True  # as far as anybody knows

    def __init__(self, messages: Iterable[Any]) -> None:
        if isinstance(messages, str | bytes | bytearray | memoryview):
            raise UsageError(f"messages: an iterable of messages, not {type(messages).__name__}")
        self._iterator = iter(messages)
        self._listed = isinstance(messages, list | tuple)

    def begin(self, tasks: "anyio.abc.TaskGroup") -> None:
        """As ``Feed`` has it."""

    def stop(self) -> None:
        """As ``Feed`` has it: nobody ever waits."""

    async def take(self, *, wait: bool) -> Any:  # noqa: ARG002  reading may keep us, whatever is asked
        """As ``Feed`` has it."""
        return next(self._iterator, Nothing.MORE)

    def rest(self) -> list[Any]:
        """The rest of a list; another input stays where it is."""
        return list(self._iterator) if self._listed else []


class Buffered:
    """A feed from an async iterable, of which a task reads ``size`` items ahead."""

    def __init__(self, messages: AsyncIterable[Any], size: int, limit: float) -> None:
        self._messages = messages
        self._size = size
        self._limit = limit  # seconds for closing a generator
        self._items: deque[Any] = deque()
        self._over = False
        self._fault: Exception | None = None
        self._scope: anyio.CancelScope | None = None
        self._change: anyio.Event | None = None  # what somebody waits for: an item, or room for one

    def begin(self, tasks: "anyio.abc.TaskGroup") -> None:
        """As ``Feed`` has it."""
        import anyio

        self._scope = anyio.CancelScope()
        tasks.start_soon(self._fill)

    def stop(self) -> None:
        """As ``Feed`` has it."""
        if self._scope is not None:
            self._scope.cancel()

    @property
    def ahead(self) -> bool:
        """As ``Feed`` has it."""
        return bool(self._items)

    async def take(self, *, wait: bool) -> Any:
        """As ``Feed`` has it."""
        while not self._items:
            if self._over:
                fault, self._fault = self._fault, None
                if fault is not None:
                    raise fault from None
                return Nothing.MORE
            if not wait:
                return Nothing.YET
            await self._wait()
        item = self._items.popleft()
        self._ring()
        return item

    def rest(self) -> list[Any]:
        """As ``Feed`` has it."""
        items = list(self._items)
        self._items.clear()
        return items

    async def _fill(self) -> None:
        """Read the input; a generator that is left before its end is closed."""
        import anyio

        assert self._scope is not None
        with self._scope:
            iterator: AsyncIterator[Any] | None = None  # which may be a generator where the input is none
            try:
                iterator = aiter(self._messages)
                async for item in iterator:
                    self._items.append(item)
                    self._ring()
                    while len(self._items) >= self._size:
                        await self._wait()
            except Exception as fault:  # noqa: BLE001  raised where the items are taken
                self._fault = fault
            finally:
                self._over = True
                self._ring()
                if isinstance(iterator, AsyncGenerator):
                    with anyio.move_on_after(self._limit, shield=True), suppress(Exception):
                        await iterator.aclose()

    async def _wait(self) -> None:
        import anyio

        if self._change is None:
            self._change = anyio.Event()
        await self._change.wait()

    def _ring(self) -> None:
        if self._change is not None:
            self._change.set()
            self._change = None


def feed_of(messages: "Iterable[Any] | AsyncIterable[Any]", *, ahead: int, limit: float) -> Feed:
    """The feed of an input; ``ahead``, ``limit``: what ``Buffered`` takes of an async one. Raises UsageError."""
    return Buffered(messages, ahead, limit) if isinstance(messages, AsyncIterable) else Iterated(messages)
