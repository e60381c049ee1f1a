"""One telling of mail data: pieces with their line ends mended, taken from any kind of source as they are needed."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from smtpkit.errors import InvalidMail, UsageError
from smtpkit.protocol.mail_data import LineEnds, MailData

Runner = Callable[[Callable[[], Any]], Awaitable[Any]]

_DRY = object()  # what a source that has ended gives


class Telling:
    """Mail data piece by piece. ``ended`` is set with the last piece; a fault in the source is InvalidMail.

    ``done``: the octets told so far; ``size``: those of the whole, or None.

    ``at_once``: all of it is in memory, so that a piece is not waited for.
    """

    __slots__ = (
        *("_cached", "_chunk", "_chunks", "_ends", "_left", "_piece", "_run", "_waits"),
        *("at_once", "done", "ended", "size"),
    )

    def __init__(self, mail_data: MailData, piece: int, run: Runner) -> None:
        self.ended = False
        self.done = 0
        self.size = mail_data.size
        self._piece = piece
        self._run = run
        self._cached = mail_data.cached
        self._waits = mail_data.blocking  # may the next chunk be waited for?
        self._ends = None if mail_data.mended else LineEnds(strict=mail_data.strict)
        self._left = 0  # where in the chunk the next piece begins
        self._chunk: bytes | None = b""  # None when the source is dry
        self._chunks: Iterator[bytes] | AsyncIterator[bytes]
        self.at_once = mail_data.octets is not None
        if self.at_once:
            self._chunk = mail_data.octets
            return
        try:
            source = mail_data.tell()
            self._chunks = aiter(source) if isinstance(source, AsyncIterable) else iter(source)
        except (InvalidMail, UsageError):
            raise
        except Exception as fault:
            raise _faulty(fault) from fault

    async def next(self) -> bytes:
        """The next piece: about ``piece`` octets, more only by what mending adds; fewer only at the end."""
        told = self._slice() if self.at_once else await self._gathered()
        self.done += len(told)
        return told

    def _slice(self) -> bytes:
        """The next piece of what is in memory."""
        octets = self._chunk or b""
        start, self._left = self._left, self._left + self._piece
        part = octets[start : self._left]
        self.ended = self._left >= len(octets)
        if self._ends is not None:
            part = self._ends.mend(part)
            part += self._ends.end() if self.ended else b""
        return part

    async def _gathered(self) -> bytes:
        """The next piece of what the source gives."""
        parts: list[bytes] = []
        size = 0
        while self._chunk is not None and size < self._piece:
            if self._left < len(self._chunk):
                part = self._chunk[self._left : self._left + self._piece - size]
                self._left += len(part)
                part = part if self._ends is None else self._ends.mend(part)
                parts.append(part)
                size += len(part)
            if self._left == len(self._chunk):
                await self._take()
        if self._chunk is None:
            self.ended = True
            if self._ends is not None:
                parts.append(self._ends.end())
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def aclose(self) -> None:
        """Let go of the source; files are closed here when it is left before its end.

        Its faults are of no consequence then: it is left for a reason that they must not hide. One of them is that a
        worker thread nobody waits for any more is still in it.
        """
        if self.at_once:
            return
        close: Any = getattr(self._chunks, "aclose", None) or getattr(self._chunks, "close", None)
        if close is not None:
            with suppress(Exception):
                closing = close()
                if closing is not None:
                    await closing

    async def _take(self) -> None:
        """Take the next chunk that is not empty, or find the source dry."""
        self._left, self._chunk = 0, b""
        chunk: Any
        while not self._chunk:
            try:
                if isinstance(self._chunks, AsyncIterator):
                    chunk = await anext(self._chunks, _DRY)
                elif self._waits:
                    chunk = await self._run(partial(next, self._chunks, _DRY))
                else:
                    chunk = next(self._chunks, _DRY)
            except (InvalidMail, UsageError):
                raise
            except Exception as fault:
                raise _faulty(fault) from fault
            if chunk is _DRY:
                self._chunk = None
                return
            if not isinstance(chunk, bytes | bytearray | memoryview):
                raise InvalidMail(f"mail data: the source gives {type(chunk).__name__}; it must give bytes")
            self._chunk = bytes(chunk)
            if self._cached:
                self._waits = not chunk


def _faulty(fault: Exception) -> InvalidMail:
    return InvalidMail(f"mail data: its source failed ({type(fault).__name__}: {fault}); nothing was delivered")
