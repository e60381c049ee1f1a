"""Replies: their grammar (RFC 5321 section 4.2), their severity, and a reader that takes them out of octets.

Rules: a reply is judged by its first digit; its text is never matched; limits hold before memory is spent.
"""

import re
from collections import deque
from dataclasses import dataclass
from typing import Literal, NamedTuple


class MalformedReply(Exception):
    """The octets cannot be a reply, or are more than a reply may be."""


class EnhancedStatus(NamedTuple):
    """An enhanced status code, ``class.subject.detail`` (RFC 3463)."""

    class_: int
    subject: int
    detail: int

    def __str__(self) -> str:
        return f"{self.class_}.{self.subject}.{self.detail}"


class ReplyLimits(NamedTuple):
    """How much one reply may be: octets of a line, number of lines, octets in all."""

    line: int = 4096
    lines: int = 512
    octets: int = 65_536


USUAL = ReplyLimits()
# EHLO answers with a line an extension; a 334 may carry 12,288 octets of base64 (RFC 4954 section 4).
ROOMY = ReplyLimits(line=12_294, lines=1024, octets=131_072)

MOST_KNOWN = 8  # lines that are looked up, where they have been read before
LONGEST_KNOWN = 64  # octets

_LINE = re.compile(rb"([2-5][0-5][0-9])(?:([ -])([^\r\n]*(?:\r(?!\n|$)[^\r\n]*)*))?\Z")
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?=\s|\Z)")
_GREYLISTS = {None, (4, 2, 0), (4, 7, 0), (4, 7, 1)}  # enhanced codes of those who put strangers off
_FOR_NOW = {421, 450, 451, 452}
_NOT_THE_PACE = {(4, 2, 2), (4, 5, 3)}  # enhanced codes of a full mailbox, and of too many recipients in one mail
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server said: a code of three digits and one text for each line, without code and separator.

    The text is UTF-8; octets that are not are kept by ``surrogateescape``. ``str()`` shows control characters escaped,
    so that a reply is safe to print or to log.
    """

    code: int
    lines: tuple[str, ...] = ("",)

    @property
    def text(self) -> str:
        """The lines, joined by line feeds, exactly as received."""
        return "\n".join(self.lines)

    @property
    def enhanced(self) -> EnhancedStatus | None:
        """The enhanced status code at the start of the text (RFC 2034), or None."""
        found = _ENHANCED.match(self.lines[0])
        if found is None or found[1] != str(self.code)[0]:
            return None
        return EnhancedStatus(int(found[1]), int(found[2]), int(found[3]))

    @property
    def positive(self) -> bool:
        """2yz: done."""
        return 200 <= self.code < 300

    @property
    def intermediate(self) -> bool:
        """3yz: go on."""
        return 300 <= self.code < 400

    @property
    def transient(self) -> bool:
        """4yz: refused for now."""
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        """5yz: refused for good."""
        return self.code >= 500

    @property
    def negative(self) -> bool:
        """4yz or 5yz."""
        return self.code >= 400

    @property
    def closing(self) -> bool:
        """421: the service closes the channel (RFC 5321 section 3.8)."""
        return self.code == 421

    @property
    def hint(self) -> Literal["greylisted", "slower"] | None:
        """What the codes hint at, for whoever tries again; None where they hint at nothing.

        ``greylisted``: perhaps nothing is wrong but that we are not known here yet, so that the same mail is taken in
        a few minutes (RFC 6647). Servers say so by 450 or 451, and no code is kept for it: a hint is no more than that.
        ``slower``: 421, 450, 451 or 452 for another reason; perhaps it is more than the server can do at present, but
        not where that is one full mailbox (X.2.2) or the number of recipients (X.5.3; RFC 3463). Any hint is a reason
        to send more slowly.
        """
        if self.code not in _FOR_NOW:
            return None
        enhanced = self.enhanced
        if enhanced in _GREYLISTS and self.code in {450, 451}:
            return "greylisted"
        return None if enhanced in _NOT_THE_PACE else "slower"

    def __str__(self) -> str:
        shown = f"{self.code} " + " / ".join(self.lines)
        return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), shown).rstrip()


class ReplyReader:
    """Takes replies out of octets, however they are split. What is malformed is so each time it is asked for.

    ``feed`` adds what has arrived; ``next`` returns the next whole reply or None. ``pending`` says whether octets are
    left that no reply has been made of. A server says the same few lines again and again: a short line that was read
    before is looked up, not read, in ``known``, which readers may share. ``line``: the most octets of a line, where
    that is less than the limits allow.
    """

    __slots__ = ("_code", "_known", "_lines", "_longest", "_rest", "_size", "_texts")

    def __init__(self, line: int | None = None, known: dict[bytes, Reply] | None = None) -> None:
        self._longest = line
        self._lines: deque[bytes] = deque()  # whole ones, without their LF
        self._rest = b""  # the beginning of a line
        self._known = {} if known is None else known
        self._code = b""
        self._texts: list[str] = []  # of the reply under way
        self._size = 0  # its octets

    @property
    def pending(self) -> bool:
        """Are octets left that no reply has been made of?"""
        return bool(self._lines or self._rest or self._texts)

    def feed(self, octets: bytes) -> None:
        """Add what has arrived."""
        lines = (self._rest + octets).split(b"\n")
        self._rest = lines.pop()
        self._lines += lines

    def next(self, limits: ReplyLimits = USUAL) -> Reply | None:
        """The next whole reply, or None if more octets are needed. Raises MalformedReply."""
        lines = self._lines
        while lines:
            reply = self._known.get(lines[0])
            if reply is None or self._texts:
                reply = self._read(lines[0], limits)
            lines.popleft()
            if reply is not None:
                return reply
        if self._rest:
            self._check_line(self._rest, limits)
        return None

    def _check_line(self, line: bytes, limits: ReplyLimits) -> None:
        longest = limits.line if self._longest is None else min(self._longest, limits.line)
        if len(line) > longest:
            raise MalformedReply(f"a reply line is longer than {longest} octets")

    def _read(self, line: bytes, limits: ReplyLimits) -> Reply | None:
        """Read a line; the reply, if it is the last one of it."""
        self._check_line(line, limits)
        text = line.removesuffix(b"\r")
        found = _LINE.match(text)
        if found is None:
            raise MalformedReply(f"not a reply line: {text[:80]!r}")
        code, separator, text = found.groups(b"")
        if self._texts and code != self._code:
            raise MalformedReply(f"the code changes within one reply, from {self._code!r} to {code!r}")
        self._code = code
        self._texts.append(text.decode("utf-8", "surrogateescape"))
        self._size += len(line) + 1
        if len(self._texts) > limits.lines:
            raise MalformedReply(f"a reply has more than {limits.lines} lines")
        if self._size > limits.octets:
            raise MalformedReply(f"a reply is longer than {limits.octets} octets")
        if separator == b"-":
            return None
        reply = Reply(int(code), tuple(self._texts))
        if len(self._texts) == 1 and len(line) <= LONGEST_KNOWN:
            if len(self._known) == MOST_KNOWN:
                self._known.clear()
            self._known[line] = reply
        self._texts, self._size = [], 0
        return reply
