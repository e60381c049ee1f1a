"""Telling: the same octets from any kind of source, and no end for a source that failed."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from smtpkit.errors import InvalidMail, UsageError
from smtpkit.protocol.mail_data import MailData
from smtpkit.telling import Telling
from tests.streams import run

CHUNKS: list[bytes] = [b"", b"Subject: x\r", b"\n", b"", b"\r\n.one\n", b"two", b""]
WHOLE = b"Subject: x\r\n\r\n.one\r\ntwo\r\n"


async def inline(function: Callable[[], Any]) -> Any:
    """What a stream does where the caller blocks anyway."""
    return function()


def generator(chunks: Iterable[Any]) -> Iterator[Any]:
    yield from chunks


async def async_generator(chunks: Iterable[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        yield chunk


class Async:
    """An asynchronous iterable that is no generator and cannot be closed."""

    def __init__(self, chunks: Iterable[Any]) -> None:
        self.chunks = iter(chunks)

    def __aiter__(self) -> "Async":
        return self

    async def __anext__(self) -> Any:
        for chunk in self.chunks:
            return chunk
        raise StopAsyncIteration


SOURCES: dict[str, Callable[[Iterable[Any]], Any]] = {
    "list": list,
    "generator": generator,
    "async generator": async_generator,
    "async iterable": Async,
}


async def told(telling: Telling) -> list[bytes]:
    """All pieces."""
    pieces = []
    while not telling.ended:
        pieces.append(await telling.next())
    await telling.aclose()
    return pieces


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_told(source: str, size: int, *, blocking: bool) -> None:
    """The octets are the same from every kind of source and for every size of a piece; one is never much larger."""
    telling = Telling(MailData(lambda: SOURCES[source](CHUNKS), blocking=blocking), size, inline)
    pieces = run(told(telling))
    assert b"".join(pieces) == WHOLE
    assert all(len(piece) <= 2 * size + 2 for piece in pieces)


def test_what_is_in_the_systems_memory_needs_no_thread() -> None:
    """Where the source says so, only the first chunk and one behind an empty one are taken in a worker thread."""
    runs = []

    async def counted(function: Callable[[], Any]) -> Any:
        runs.append(function)
        return function()

    chunks = [b"a\r\n", b"b\r\n", b"", b"c\r\n", b"d\r\n"]
    for cached, expected in ((True, 2), (False, 6)):
        runs.clear()
        mail_data = MailData(lambda: generator(chunks), blocking=True, cached=cached)
        assert b"".join(run(told(Telling(mail_data, 3, counted)))) == b"".join(chunks)
        assert len(runs) == expected


def test_nothing_is_mended_twice() -> None:
    """What is known to be mended goes out as it is, chunk by chunk, of any type that holds octets."""
    chunks: list[Any] = [b"a\r\n", bytearray(b"b\r\n"), memoryview(b"c\r\n")]
    assert run(told(Telling(MailData(lambda: chunks, mended=True), 3, inline))) == [b"a\r\n", b"b\r\n", b"c\r\n"]


@pytest.mark.parametrize("mended", [False, True])
@pytest.mark.parametrize("chunks", [[], [b""], [b"", b""]])
def test_empty(chunks: list[bytes], *, mended: bool) -> None:
    """No octets are one piece, an empty one."""
    assert run(told(Telling(MailData(lambda: chunks, mended=mended), 5, inline))) == [b""]


def test_the_last_piece_says_so() -> None:
    """``ended`` comes with the last octets, not after them, also where they fill a piece."""
    telling = Telling(MailData(lambda: [b"12\r\n", b"34\r\n", b""], mended=True), 4, inline)
    assert (run(telling.next()), telling.ended) == (b"12\r\n", False)
    assert (run(telling.next()), telling.ended) == (b"34\r\n", True)


def fails(error: Exception, *chunks: Any) -> Iterator[Any]:
    yield from chunks
    raise error


@pytest.mark.parametrize("error", [OSError("no such disk"), ValueError("x"), KeyError("x"), StopIteration()])
@pytest.mark.parametrize("blocking", [False, True])
def test_a_fault_in_the_source(error: Exception, *, blocking: bool) -> None:
    """Whatever a source raises is InvalidMail, from it, and the telling has not ended."""
    telling = Telling(MailData(lambda: fails(error, b"a\r\n"), blocking=blocking), 100, inline)
    with pytest.raises(InvalidMail, match="its source failed") as caught:
        run(told(telling))
    assert caught.value.__cause__ is not None
    assert not telling.ended


def test_a_fault_before_the_first_chunk() -> None:
    """A source that cannot even begin is no other case: at its call, or as it is iterated."""

    def missing() -> Iterable[bytes]:
        raise FileNotFoundError("mail.eml")

    for tell in (missing, lambda: 5):
        with pytest.raises(InvalidMail, match="its source failed"):
            Telling(MailData(tell), 5, inline)  # type: ignore[arg-type]  # what a user may hand in


def test_our_own_error_stays() -> None:
    """An error of this library is not wrapped, and is not its own cause."""
    error = UsageError("sent once already")

    def spent() -> Iterable[bytes]:
        raise error

    with pytest.raises(UsageError) as caught:
        Telling(MailData(spent), 5, inline)
    assert caught.value is error
    assert error.__cause__ is None
    with pytest.raises(UsageError) as caught:
        run(told(Telling(MailData(lambda: fails(error, b"a")), 5, inline)))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("chunk", ["text", "", 65, 0, None, [], ["a"]], ids=repr)
@pytest.mark.parametrize("source", SOURCES)
def test_only_octets_are_told(source: str, chunk: object) -> None:
    """A chunk that is no octets is refused, never taken for the end, for nothing, or for a number of octets."""
    telling = Telling(MailData(lambda: SOURCES[source]([b"a\r\n", chunk, b"b\r\n"]), mended=True), 100, inline)
    with pytest.raises(InvalidMail, match=f"gives {type(chunk).__name__}; it must give bytes"):
        run(told(telling))
    assert not telling.ended


def test_octets_are_no_source() -> None:
    """A source that is octets itself gives numbers, and is refused."""
    with pytest.raises(InvalidMail, match="gives int"):
        run(told(Telling(MailData(lambda: b"abc"), 5, inline)))  # type: ignore[arg-type, return-value]


def test_strict() -> None:
    """A strict mail with a bare line end is refused as it is told, also where it is the very last octet."""
    for octets in (b"a\nb", b"a\r"):
        with pytest.raises(InvalidMail, match="bare CR"):
            run(told(Telling(MailData([octets].copy, strict=True), 5, inline)))


@pytest.mark.parametrize("kind", ["generator", "async generator"])
def test_left_early(kind: str) -> None:
    """A source that is left before its end is closed; a fault of its own hides nothing."""
    closed = []

    def source() -> Iterator[bytes]:
        try:
            yield from [b"a\r\n"] * 9
        finally:
            closed.append(True)
            raise OSError("a fault of its own")

    async def async_source() -> AsyncIterator[bytes]:
        try:
            for chunk in [b"a\r\n"] * 9:
                yield chunk
        finally:
            closed.append(True)
            raise OSError("a fault of its own")

    telling = Telling(MailData(source if kind == "generator" else async_source), 3, inline)
    assert run(telling.next()) == b"a\r\n"
    run(telling.aclose())
    assert closed == [True]


def test_left_while_a_thread_is_in_it() -> None:
    """Who is cancelled leaves a blocking source while a worker thread is still in it, and hears only of that."""
    entered, goes_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def source() -> Iterator[bytes]:
        entered.set()
        goes_on.wait()
        yield b"a\r\n"

    class Cancelled(BaseException):
        pass

    async def abandoned(function: Callable[[], Any]) -> Awaitable[Any]:
        threads.append(threading.Thread(target=function))
        threads[0].start()
        entered.wait()
        raise Cancelled

    telling = Telling(MailData(source, blocking=True), 5, abandoned)
    try:
        with suppress(Cancelled):
            run(telling.next())
        run(telling.aclose())
    finally:
        goes_on.set()
        threads[0].join()
