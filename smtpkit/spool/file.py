"""A file of the spool: a mail whole, written in one pass and held against its digest when it is read.

It can be read with any editor; its lines end in CRLF:

* ``smtpkit spool 1``, the version;
* the envelope, the Message-ID and the notes, if there are any, as a JSON object, and an empty line;
* the mail data as they will be sent, without transparency;
* ``smtpkit end``, their size in 20 digits, ``7bit`` or ``8bit``, ``dots`` if a line begins with one or else ``safe``,
  ``sha256`` and the digest of all the octets before it.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import AsyncIterable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from typing import Any, NamedTuple

from smtpkit.errors import InvalidMail, SpoolError, UsageError
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.mail_data import LineEnds, MailData, survey
from smtpkit.spool.directory import trouble

PIECE = 262_144  # octets read or written at once

_VERSION = b"smtpkit spool 1\r\n"
_TRAILER = re.compile(rb"smtpkit end (\d{20}) ([78])bit (dots|safe) sha256 ([0-9a-f]{64})\r\n")
_AFTER_DIGESTED = 64 + len("\r\n")
_TRAILER_SIZE = len("smtpkit end  7bit dots sha256 ") + 20 + _AFTER_DIGESTED


class Content(NamedTuple):
    """What is in a file. The mail data are told from it, as often as is wanted, as long as it is open."""

    envelope: Envelope
    message_id: str | None
    mail_data: MailData
    notes: Mapping[str, Any]


def write(
    file: io.FileIO,
    envelope: Envelope,
    mail_data: MailData,
    message_id: str | None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a file from its beginning to its end in one pass, and wait until the disk has it."""
    writer = _Writer(file)
    writer.put(_head(envelope, message_id, notes or {}))
    with closing(_mended(mail_data)) as pieces:
        found = survey(writer.put(piece) for piece in pieces)
    bits, dots = 8 if found.eight_bit else 7, "safe" if found.wire_safe else "dots"
    writer.put(b"smtpkit end %020d %dbit %s sha256 " % (found.size, bits, dots.encode()))
    writer.flush()
    writer.put(b"%s\r\n" % writer.digest.hexdigest().encode())
    writer.flush()
    os.fsync(file.fileno())


class _Writer:
    """Gathers octets to pieces, digests them, and writes all of each."""

    __slots__ = ("_file", "_size", "_waiting", "digest")

    def __init__(self, file: io.FileIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file
        self._waiting: list[bytes] = []
        self._size = 0

    def put(self, octets: bytes) -> bytes:
        """Take octets, and return them."""
        self._waiting.append(octets)
        self._size += len(octets)
        if self._size >= PIECE:
            self.flush()
        return octets

    def flush(self) -> None:
        octets = b"".join(self._waiting)
        self._waiting, self._size = [], 0
        self.digest.update(octets)
        left = memoryview(octets)
        while left:
            left = left[self._file.write(left) :]


def _mended(mail_data: MailData) -> Generator[bytes, None, None]:
    """The mail data with their line ends mended. Any fault of their source is InvalidMail."""
    ends = LineEnds(strict=mail_data.strict)
    try:
        chunks = mail_data.tell()
        if isinstance(chunks, AsyncIterable):
            raise UsageError("mail data: an async iterable; gather its octets before they are queued")
        for chunk in chunks:
            yield ends.mend(bytes(chunk))
        yield ends.end()
    except (InvalidMail, SpoolError, UsageError):
        raise
    except Exception as fault:
        raise InvalidMail(f"mail data: its source failed ({type(fault).__name__}: {fault})") from fault


def read(file: io.FileIO, *, whole: bool = True) -> Content:
    """Read a file and hold it against its digest. Raises InvalidMail for what was not written by ``write``.

    Not ``whole``: what is before the mail data only, to look at it; what is told of them is held against it still.
    """
    name, fd = file.name, file.fileno()
    size = os.fstat(fd).st_size
    trailer = _TRAILER.fullmatch(os.pread(fd, _TRAILER_SIZE, max(0, size - _TRAILER_SIZE)))
    if trailer is None:
        raise InvalidMail(f"{name}: it does not end as a mail of the spool does; it is cut, or something else")
    octets, expected = int(trailer[1]), trailer[4].decode()
    start = size - _TRAILER_SIZE - octets
    digest = hashlib.sha256()
    for piece in _pieces(fd, 0, size - _AFTER_DIGESTED if whole else 0):
        digest.update(piece)
    if start < 0 or (whole and digest.hexdigest() != expected):
        raise InvalidMail(f"{name}: its digest is wrong; it was changed or damaged since it was queued")
    head = b"".join(_pieces(fd, 0, start))

    def tell() -> Iterator[bytes]:
        # The last piece is held back until all of it is known to be what it was.
        told, held = hashlib.sha256(head), b""
        try:
            for piece in _pieces(file.fileno(), start, start + octets):
                told.update(piece)
                yield held
                held = piece
        except OSError as fault:
            raise trouble(str(name), "it cannot be read any more", fault) from fault
        told.update(trailer[0][:-_AFTER_DIGESTED])
        if told.hexdigest() != expected:
            raise InvalidMail(f"{name}: it was changed while it was sent")
        yield held

    try:
        envelope, message_id, notes = _parse_head(head)
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as fault:
        raise InvalidMail(f"{name}: its envelope cannot be read ({fault})") from fault
    mail_data = MailData(tell, octets, trailer[2] == b"8", mended=True, wire_safe=trailer[3] == b"safe", blocking=True)
    return Content(envelope, message_id, mail_data, notes)


def _pieces(fd: int, start: int, end: int) -> Iterator[bytes]:
    while start < end:
        piece = os.pread(fd, min(PIECE, end - start), start)
        if not piece:
            raise InvalidMail("a file of the spool was cut while it was read")
        start += len(piece)
        yield piece


def _head(envelope: Envelope, message_id: str | None, notes: Mapping[str, Any]) -> bytes:
    fields = {"message_id": message_id} | ({"notes": dict(notes)} if notes else {}) | asdict(envelope)
    text = json.dumps(fields, indent=1, ensure_ascii=False)
    return _VERSION + text.replace("\n", "\r\n").encode("utf-8", "surrogatepass") + b"\r\n\r\n"


def _parse_head(head: bytes) -> tuple[Envelope, str | None, Mapping[str, Any]]:
    if not head.startswith(_VERSION):
        raise ValueError("another version wrote it")
    fields = json.loads(head[len(_VERSION) :].decode("utf-8", "surrogatepass"))
    message_id, notes = fields.pop("message_id"), dict(fields.pop("notes", {}))
    paths = tuple(ForwardPath(**path | {"notify": tuple(path["notify"])}) for path in fields.pop("forward_paths"))
    return Envelope(forward_paths=paths, **fields), message_id, notes
