"""Sources of octets: bytes, files and iterables become a header to read and mail data to tell.

Rules: Bcc and Resent-Bcc never are in the mail data, whatever the chunks; a file is read a piece at a time; what can be
told twice tells the same twice; a one-shot source is read as far as its header, and the rest when it is told.
"""

import os
import stat
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from io import FileIO
from typing import Any, NamedTuple

from smtpkit.errors import InvalidMail
from smtpkit.message import header as fields
from smtpkit.protocol.mail_data import MailData, survey

PIECE = 262_144  # octets read from a file at once
CACHED = 131_072  # the same where no thread is needed: as many as are looked through at once


class Source(NamedTuple):
    """The header as it was, Bcc and all, and the mail data without it."""

    header: bytes
    mail_data: MailData


def in_memory(octets: bytes, *, strict: bool) -> Source:
    """Octets at hand."""
    header = octets[: fields.header_end(octets, at_end=True)]
    kept = fields.without(header)
    return Source(header, MailData.of(octets if kept is header else kept + octets[len(header) :], strict=strict))


def path_source(path: os.PathLike[str], *, strict: bool) -> Source:
    """A file by its path, opened anew for each telling."""

    def begin() -> Iterator[bytes]:
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123  any os.PathLike
            if stamp(os.fstat(file.fileno())) != stamp(first):
                raise InvalidMail(f"message {os.fspath(path)}: the file was changed since it was prepared")
            yield from _read_cached(file)

    try:
        first = os.stat(path)  # noqa: PTH116
        if stat.S_ISDIR(first.st_mode):
            raise InvalidMail(f"message {os.fspath(path)}: a directory; give the path of a file")
        if not stat.S_ISREG(first.st_mode):
            raise InvalidMail(f'message {os.fspath(path)}: no regular file; open it: open(path, "rb")')
        return repeatable(begin, strict=strict, blocking=True, cached=True)
    except OSError as error:
        raise InvalidMail(f"message {os.fspath(path)}: {error.strerror or error}") from error


def stamp(of: os.stat_result) -> tuple[int, int, int]:
    """What tells a file from what it was, and from another of its name."""
    return of.st_ino, of.st_size, of.st_mtime_ns


def file_source(file: Any, *, strict: bool) -> Source:
    """A binary file from where it stands, again and again if it can seek; it is the caller's to close."""
    if not (hasattr(file, "seekable") and file.seekable()):
        return one_shot(_read(file), strict=strict, blocking=True)
    start = file.tell()

    def begin() -> Iterator[bytes]:
        file.seek(start)
        yield from _read(file)

    source = repeatable(begin, strict=strict, blocking=True)
    file.seek(start)
    return source


def repeatable(begin: Callable[[], Iterator[bytes]], *, strict: bool, blocking: bool, cached: bool = False) -> Source:
    """A source whose reading can begin anew. What is read from a disk again is not taken for what it was."""

    def tell() -> Iterator[bytes]:
        chunks = begin()
        try:
            header, rest = _read_head(chunks)
            yield fields.without(header)
            yield rest
            yield from chunks
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    chunks = begin()
    header, _ = _read_head(chunks)
    if hasattr(chunks, "close"):
        chunks.close()
    size, eight_bit, mended, wire_safe = survey(tell(), strict=strict)
    if blocking:
        mended = wire_safe = False
    return Source(header, MailData(tell, size, eight_bit, mended, wire_safe, strict, blocking=blocking, cached=cached))


def one_shot(chunks: Iterator[bytes], *, strict: bool, blocking: bool) -> Source:
    """A source that is read once: its head now, the rest when it is told."""
    header, rest = _read_head(chunks)
    head = (fields.without(header), rest)

    def told() -> Iterator[bytes]:
        try:
            yield from head
            yield from chunks
        finally:
            if hasattr(chunks, "close"):
                chunks.close()

    return Source(header, _once(told(), head, strict=strict, blocking=blocking))


async def async_one_shot(message: AsyncIterable[bytes], *, strict: bool) -> Source:
    """A source that is read once, and waited for."""
    chunks = aiter(message)
    head = _Head()
    async for chunk in chunks:
        if head.take(octets_of(chunk)):
            break
    header, rest = head.split()
    beginning = (fields.without(header), rest)

    async def told() -> AsyncIterator[bytes]:
        try:
            for chunk in beginning:
                yield chunk
            async for chunk in chunks:
                yield octets_of(chunk)
        finally:
            close = getattr(chunks, "aclose", None)
            if close is not None:
                await close()

    return Source(header, _once(told(), beginning, strict=strict, blocking=False))


def _once(
    told: Iterator[bytes] | AsyncIterator[bytes], head: tuple[bytes, bytes], *, strict: bool, blocking: bool
) -> MailData:
    """Mail data that is told once; of what is in it no more is known than its head shows."""
    tellings = iter([told])

    def tell() -> Iterator[bytes] | AsyncIterator[bytes]:
        for telling in tellings:
            return telling
        raise InvalidMail("message: its source can be read only once, and was; give bytes or a path to send it again")

    eight_bit = None if all(map(bytes.isascii, head)) else True
    return MailData(tell, eight_bit=eight_bit, strict=strict, one_shot=True, blocking=blocking)


class _Head:
    """The octets read until it is known where the header ends, whatever the chunks."""

    __slots__ = ("_end", "_octets")

    def __init__(self) -> None:
        self._octets = bytearray()
        self._end: int | None = None

    def take(self, chunk: bytes) -> bool:
        """Take a chunk; True when no more is needed. Raises InvalidMail for a header that does not end."""
        searched = len(self._octets)
        self._octets += chunk
        self._end = fields.header_end(self._octets, searched=searched)
        if self._end is None and len(self._octets) > fields.LONGEST_HEADER:
            raise InvalidMail(f"message: its header does not end within {fields.LONGEST_HEADER} octets")
        return self._end is not None

    def split(self) -> tuple[bytes, bytes]:
        """The header, and what was read of the rest."""
        octets = bytes(self._octets)
        return (octets[: self._end], octets[self._end :]) if self._end is not None else fields.split_header(octets)


def _read_head(chunks: Iterator[bytes]) -> tuple[bytes, bytes]:
    head = _Head()
    for chunk in chunks:
        if head.take(chunk):
            break
    return head.split()


def _read(file: Any) -> Iterator[bytes]:
    """A file's octets from where it stands."""
    while chunk := octets_of(file.read(PIECE)):
        yield chunk


def _read_cached(file: FileIO) -> Iterator[bytes]:
    """The octets of a regular file; an empty chunk before each that is not in the system's memory."""
    buffer = memoryview(bytearray(CACHED))
    while True:
        chunk = _at_hand(file, buffer)
        if chunk is None:
            yield b""
            chunk = file.read(CACHED)
        if not chunk:
            return
        yield chunk


def _at_hand(file: FileIO, buffer: memoryview) -> bytes | None:
    """The next octets, where the system can give them without a look at the disk; None where it cannot, or may not."""
    if not hasattr(os, "RWF_NOWAIT"):
        return None
    try:
        return bytes(buffer[: os.preadv(file.fileno(), [buffer], -1, os.RWF_NOWAIT)])
    except OSError:
        return None


def octets_of(chunk: Any) -> bytes:
    """A chunk of the caller's source as bytes. Raises InvalidMail for what is none."""
    if isinstance(chunk, bytes):
        return chunk
    if isinstance(chunk, bytearray | memoryview):
        return bytes(chunk)
    if hasattr(chunk, "__await__"):
        chunk.close()
        raise InvalidMail("message: a file whose read() must be awaited; give an async iterable of bytes")
    raise InvalidMail(f'message: its source gives {type(chunk).__name__}, not bytes; open a file as "rb", encode a str')
