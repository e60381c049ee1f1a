"""The input of a run: any iterable, with the position of each item, a batch at a time."""

import time
from typing import TYPE_CHECKING, Any

from smtpkit.bulk import Nothing, feed_of

if TYPE_CHECKING:
    import anyio.abc

PATIENCE = 0.005  # seconds in which a batch is filled from an input that takes its time


class Items:
    """The input with its positions, a batch at a time; of an async one are read so many items ``ahead``."""

    def __init__(self, messages: Any, *, ahead: int, limit: float) -> None:
        self._feed = feed_of(messages, ahead=ahead, limit=limit)
        self._position = 0
        self._fault: Exception | None = None  # raised after all that came before it
        self._stopped = False

    def begin(self, tasks: "anyio.abc.TaskGroup") -> None:
        """Begin to read, where that needs a task."""
        self._feed.begin(tasks)

    def stop(self) -> None:
        """Give no more."""
        self._stopped = True
        self._feed.stop()

    def close(self) -> None:
        """Let go of what was read and not taken."""
        self.stop()
        self._feed.rest()

    async def take(self, most: int) -> list[tuple[int, Any]]:
        """The next items, at least one and no more than are there soon; none at the end. Raises what the input does."""
        items: list[tuple[int, Any]] = []
        until = time.monotonic() + PATIENCE
        while len(items) < most and self._fault is None and not self._stopped:
            try:
                item = await self._feed.take(wait=not items)
            except Exception as fault:  # noqa: BLE001  the input's own
                self._fault = fault
                break
            if isinstance(item, Nothing):
                break
            items.append((self._position, item))
            self._position += 1
            if time.monotonic() > until:
                break
        if not items and self._fault is not None and not self._stopped:
            broken, self._fault = self._fault, None
            raise broken
        return items
