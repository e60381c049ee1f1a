"""Mail data: a recipe for octets, the mending of line ends, and transparency (RFC 5321 section 4.5.2).

Rules: on the wire every line ends in CRLF and there is no other CR or LF, across any chunk border; NUL is refused; mail
data that is not empty ends in CRLF, so DATA and BDAT carry the same octets and the end mark is always ``.`` CRLF.
"""

import re
from collections.abc import AsyncIterable, Callable, Iterable
from dataclasses import dataclass
from io import IncrementalNewlineDecoder
from typing import NamedTuple

from smtpkit.errors import InvalidMail

END_MARK = b".\r\n"

_LINE_DOT = re.compile(rb"\n\.")


class Survey(NamedTuple):
    """What one reading of the octets shows: size once mended, any octet over 127, and what need not be done again."""

    size: int
    eight_bit: bool
    mended: bool  # mending changes nothing
    wire_safe: bool  # and no line begins with a dot


@dataclass(slots=True)
class MailData:
    """Where the octets come from and what is known about them before they are told.

    ``tell`` begins the telling: it is called once for each transaction and returns chunks of any size. Unless
    ``one_shot`` it can be called again and tells the same. ``blocking``: taking a chunk may wait for a disk;
    ``cached``: only the first, and those behind an empty one.
    ``size`` counts the octets once mended, without transparency. None means unknown.
    ``octets`` is all of it, where it is at hand anyway: what ``tell`` would tell.
    ``seven_bit`` gives the same mail without octets over 127, where the source can be told so. ``binary`` gives the
    same mail with ``raw`` octets in it: any, NUL too, in lines of any length, which go by BDAT and only where
    BINARYMIME is offered (RFC 3030 section 3).
    """

    tell: Callable[[], Iterable[bytes] | AsyncIterable[bytes]]
    size: int | None = None
    eight_bit: bool | None = None
    mended: bool = False
    wire_safe: bool = False
    strict: bool = False
    one_shot: bool = False
    blocking: bool = False
    cached: bool = False
    seven_bit: "Callable[[], MailData] | None" = None
    binary: "Callable[[], MailData] | None" = None
    raw: bool = False
    octets: bytes | None = None

    @classmethod
    def of(cls, octets: bytes, *, strict: bool = False) -> "MailData":
        """Mail data from octets at hand. Raises InvalidMail for NUL, and for bare CR or LF if strict."""
        ends = LineEnds(strict=strict)
        mended = ends.mend(octets)
        size = len(mended) + len(ends.end())
        safe = not (ends.touched or mended[:1] == b"." or _LINE_DOT.search(mended))
        return cls(lambda: (octets,), size, not mended.isascii(), not ends.touched, safe, strict=strict, octets=octets)


def survey(chunks: Iterable[bytes], *, strict: bool = False) -> Survey:
    """Read once through the octets. Raises InvalidMail as LineEnds does."""
    ends = LineEnds(strict=strict)
    size = 0
    eight_bit = dots = False
    last = b"\n"
    for chunk in chunks:
        mended = ends.mend(chunk)
        size += len(mended)
        eight_bit = eight_bit or not mended.isascii()
        if not dots and b"." in mended:
            dots = (last == b"\n" and mended[:1] == b".") or _LINE_DOT.search(mended) is not None
        last = mended[-1:] or last
    size += len(ends.end())
    return Survey(size, eight_bit, not ends.touched, not (ends.touched or dots))


class LineEnds:
    """Makes every line end CRLF: bare CR and bare LF are mended, or refused if ``strict``; NUL is refused always."""

    __slots__ = ("_held", "_last", "strict", "touched")

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.touched = False  # has anything been mended?
        self._held = False  # a CR at the end of the last chunk, whose LF may come with the next
        self._last = b"\n"  # the last octet given out; so, at the start, a line begins

    def mend(self, chunk: bytes) -> bytes:
        """The chunk with its line ends mended; a CR at its end is held until the next."""
        if b"\0" in chunk:
            raise InvalidMail("mail data: a NUL octet cannot be sent by DATA; encode the part as base64")
        if self._held:
            chunk, self._held = b"\r" + chunk, False
        if chunk[-1:] == b"\r":
            chunk, self._held = chunk[:-1], True
        kinds = IncrementalNewlineDecoder(None, translate=False)  # much faster than counting
        kinds.decode(chunk.decode("latin-1"), final=True)
        if kinds.newlines not in {None, "\r\n"}:
            if self.strict:
                raise InvalidMail('mail data: a bare CR or LF; end lines with CRLF, or use newlines="normalize"')
            self.touched = True
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
        self._last = chunk[-1:] or self._last
        return chunk

    def end(self) -> bytes:
        """What is missing at the end: CRLF, unless the last line is ended or there was nothing at all."""
        if self._held and self.strict:
            raise InvalidMail('mail data: a bare CR at its end; end lines with CRLF, or use newlines="normalize"')
        if not self._held and self._last == b"\n":
            return b""
        self.touched = True
        return b"\r\n"


class Transparency:
    """Doubles the dot at the start of a line (RFC 5321 section 4.5.2); the octets given are mended already."""

    __slots__ = ("_line_start",)

    def __init__(self) -> None:
        self._line_start = True

    def double(self, chunk: bytes) -> bytes:
        """The chunk with each dot that begins a line doubled."""
        if not chunk:
            return chunk
        first = self._line_start and chunk[:1] == b"."
        self._line_start = chunk[-1:] == b"\n"
        if b"." in chunk:
            chunk = chunk.replace(b"\n.", b"\n..")
        return b"." + chunk if first else chunk
