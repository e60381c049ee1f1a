"""Reading what a client sends: paths with their parameters, and mail data."""

import hashlib
import re
from collections.abc import Mapping

END = b"\r\n.\r\n"

_PATH = re.compile(rb'<((?:"(?:[^"\\\r\n]|\\[^\r\n])*"|[^"<>\s\\])*)>(?: +(.*))?')
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([^\x00-\x20=\x7f]+))?")
_XTEXT = r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})"
_NOTIFY = "(?:SUCCESS|FAILURE|DELAY)"

Table = Mapping[str, tuple[str, re.Pattern[str] | None]]

# For each parameter: the EHLO keyword that brings it, and what its value may be (no group: it takes none).
MAIL_PARAMETERS: Table = {
    "SIZE": ("SIZE", re.compile(r"\d{1,20}")),
    "BODY": ("8BITMIME", re.compile("7BIT|8BITMIME|BINARYMIME", re.IGNORECASE)),
    "SMTPUTF8": ("SMTPUTF8", None),
    "RET": ("DSN", re.compile("FULL|HDRS", re.IGNORECASE)),
    "ENVID": ("DSN", re.compile(_XTEXT + "{1,100}")),
    "AUTH": ("AUTH", re.compile(f"{_XTEXT}+")),
    "REQUIRETLS": ("REQUIRETLS", None),
    "MT-PRIORITY": ("MT-PRIORITY", re.compile(r"-?\d")),
    "BY": ("DELIVERBY", re.compile(r"-?\d{1,9};[NR]T?", re.IGNORECASE)),
    "HOLDFOR": ("FUTURERELEASE", re.compile(r"\d{1,9}")),
    "HOLDUNTIL": ("FUTURERELEASE", re.compile(r"[0-9TZ:+-]+")),
}
RCPT_PARAMETERS: Table = {
    "NOTIFY": ("DSN", re.compile(f"NEVER|{_NOTIFY}(?:,{_NOTIFY})*", re.IGNORECASE)),
    "ORCPT": ("DSN", re.compile(r"[A-Za-z0-9-]+;[^\x00-\x20=\x7f]+")),
    "RRVS": ("RRVS", re.compile(r"[0-9A-Za-z:;.+-]+")),
}


class Improper(Exception):
    """The reply to an argument that is not what it should be."""


def read_path(argument: bytes, word: bytes, table: Table, offered: frozenset[str]) -> tuple[str, dict[str, str | None]]:
    """The path (without its brackets) and the parameters of ``FROM:<path> A=1 B`` (RFC 5321 section 4.1.1.2).

    Raises Improper with the reply to give.
    """
    if argument[: len(word)].upper() != word:
        raise Improper(f"501 5.5.4 say {word.decode()}<path>")
    found = _PATH.fullmatch(argument, len(word))
    if found is None:
        raise Improper(f"501 5.1.3 no path in brackets right behind {word.decode()}")
    try:
        path, rest = found[1].decode(), (found[2] or b"").decode()
    except UnicodeDecodeError:
        raise Improper("501 5.5.2 neither ASCII nor UTF-8") from None
    if re.search("[\x00-\x1f\x7f]", path):
        raise Improper("501 5.1.3 a control character in the path")
    return path, _read_parameters(rest, table, offered)


def _read_parameters(text: str, table: Table, offered: frozenset[str]) -> dict[str, str | None]:
    parameters: dict[str, str | None] = {}
    for word in text.split():
        found = _PARAMETER.fullmatch(word)
        if found is None:
            raise Improper("501 5.5.4 a parameter is KEYWORD or KEYWORD=value")
        keyword, value = found[1].upper(), found[2]
        extension, pattern = table.get(keyword, ("", None))
        if extension not in offered:
            raise Improper(f"555 5.5.4 parameter {keyword} not recognized")
        if keyword in parameters:
            raise Improper(f"501 5.5.4 parameter {keyword} twice")
        if (value is None) != (pattern is None) or (pattern and not pattern.fullmatch(value)):
            raise Improper(f"501 5.5.4 parameter {keyword} has no such value")
        parameters[keyword] = value
    return parameters


class Dotted:
    """Takes transparency and the end mark off mail data (RFC 5321 section 4.5.2), whatever the pieces."""

    __slots__ = ("_held", "_started")

    def __init__(self) -> None:
        self._held = b"\r\n"  # the mail data begins at the start of a line
        self._started = False

    def take(self, piece: bytes) -> tuple[bytes, bytes | None]:
        """The octets that are certain by now, and what follows the end mark (None before it has come)."""
        octets = self._held + piece
        end = octets.find(END)
        rest = None
        if end >= 0:
            octets, rest = octets[: end + 2], octets[end + 5 :]
        else:
            held = next((length for length in (4, 3, 2, 1) if octets.endswith(END[:length])), 0)
            cut = len(octets) - held
            octets, self._held = octets[:cut], octets[cut:]
        octets = octets.replace(b"\r\n.", b"\r\n")
        if octets and not self._started:
            octets, self._started = octets[2:], True
        return octets, rest


class Store:
    """Mail data as it is collected: the octets or their digest, and what is improper about it."""

    __slots__ = ("_after_cr", "_digest", "_pieces", "bare", "eight_bit", "limit", "size")

    def __init__(self, limit: int | None, *, keep: bool) -> None:
        self.limit = limit  # what is beyond is counted, not kept
        self.size = 0
        self.bare = False  # a CR or LF alone
        self.eight_bit = False
        self._after_cr = False
        self._pieces: list[bytes] = []
        self._digest = None if keep else hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """Take the next octets."""
        if not piece:
            return
        self.size += len(piece)
        pairs = piece.count(b"\r\n")
        lonely_lf = piece.count(b"\n") - pairs
        lonely_cr = piece.count(b"\r") - pairs
        if self._after_cr:
            if piece[0] == 10:
                lonely_lf -= 1
            else:
                lonely_cr += 1
        self._after_cr = piece[-1] == 13
        if self._after_cr:
            lonely_cr -= 1
        self.bare = self.bare or lonely_lf > 0 or lonely_cr > 0
        self.eight_bit = self.eight_bit or not piece.isascii()
        if self._digest:
            self._digest.update(piece)
        elif not self.exceeded:
            self._pieces.append(piece)

    @property
    def exceeded(self) -> bool:
        """Is it more than the limit?"""
        return self.limit is not None and self.size > self.limit

    def octets(self) -> bytes:
        """All of them; the store is empty afterwards."""
        octets = b"".join(self._pieces)
        self._pieces.clear()
        self.bare = self.bare or self._after_cr
        return octets

    def sha256(self) -> str:
        """The digest, where it is kept instead of the octets."""
        return self._digest.hexdigest() if self._digest else ""
