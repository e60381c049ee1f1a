"""The input of a run: any iterable, with the position of each item, a batch at a time."""

import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

from smtpkit.errors import UsageError

if TYPE_CHECKING:
    import anyio
    import anyio.abc
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

PATIENCE = 0.005  # seconds in which a batch is filled from an input that takes its time


class _Nothing(Enum):
    """What stands where no item is."""

    HERE = "none, now or at all"


class Items:
    """The input with its positions, a batch at a time."""

    def __init__(self, messages: Any, *, ahead: int, limit: float) -> None:
        if isinstance(messages, str | bytes | bytearray | memoryview):
            raise UsageError(f"messages: an iterable of messages, not {type(messages).__name__}")
        self._messages = messages
        self._ahead = ahead  # items that are read of an async iterable before they are asked for
        self._limit = limit  # seconds for closing a generator
        self._iterator: Iterator[Any] = iter(()) if isinstance(messages, AsyncIterable) else iter(messages)
        self._position = 0
        self._fault: Exception | None = None  # raised after all that came before it
        self._scope: anyio.CancelScope | None = None
        self._broken: Exception | None = None  # the same, while it is behind what the task has read
        self._sending: MemoryObjectSendStream[Any]
        self._receiving: MemoryObjectReceiveStream[Any] | None = None

    def begin(self, tasks: "anyio.abc.TaskGroup") -> None:
        """Begin to read, where that needs a task."""
        import anyio

        if isinstance(self._messages, AsyncIterable):
            self._scope = anyio.CancelScope()
            self._sending, self._receiving = anyio.create_memory_object_stream[Any](self._ahead)
            tasks.start_soon(self._fill)

    def stop(self) -> None:
        """Give no more."""
        self._iterator = iter(())
        self._fault = None
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        """Let go of what was read and not taken."""
        self.stop()
        if self._receiving is not None:
            self._receiving.close()

    async def take(self, most: int) -> list[tuple[int, Any]]:
        """The next items, at least one and no more than are there soon; none at the end. Raises what the input does."""
        items: list[tuple[int, Any]] = []
        until = time.monotonic() + PATIENCE
        while len(items) < most and self._fault is None:
            try:
                item = await self._next(wait=not items)
            except Exception as fault:  # noqa: BLE001  the input's own
                self._fault = fault
                break
            if item is _Nothing.HERE:
                break
            items.append((self._position, item))
            self._position += 1
            if time.monotonic() > until:
                break
        if not items and self._fault is not None:
            broken, self._fault = self._fault, None
            raise broken
        return items

    async def _next(self, *, wait: bool) -> Any:
        import anyio

        if self._receiving is None:
            return next(self._iterator, _Nothing.HERE)
        try:
            return await self._receiving.receive() if wait else self._receiving.receive_nowait()
        except anyio.WouldBlock:
            return _Nothing.HERE
        except anyio.EndOfStream:
            broken, self._broken = self._broken, None
            if broken is not None:
                raise broken from None
            return _Nothing.HERE

    async def _fill(self) -> None:
        """Read the input; a generator that is left before its end is closed."""
        import anyio

        assert self._scope is not None
        with self._scope, self._sending:
            try:
                async for item in self._messages:
                    await self._sending.send(item)
            except Exception as fault:  # noqa: BLE001  raised where the items are taken
                self._broken = fault
            finally:
                if isinstance(self._messages, AsyncGenerator):
                    with anyio.move_on_after(self._limit, shield=True), suppress(Exception):
                        await self._messages.aclose()
