"""MIME: text, HTML, pictures and attachments as octets, piece by piece (RFC 2045, 2046, 2183, 2231, 2387).

Rules: what is made is fit for the wire as it stands: 7 bits, lines of at most 998 octets that end in CRLF, no dot at
the start of one, save in a mail that is attached, which may not be encoded. The size is known before anything is told,
and files are read when it is told; one that has changed by then is InvalidMail.
"""

import os
import re
import stat
from binascii import b2a_base64, b2a_qp
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from struct import Struct
from typing import NamedTuple
from urllib.parse import quote

from smtpkit.errors import InvalidMail
from smtpkit.message.address import UNSAFE
from smtpkit.message.header import LONGEST_LINE, check_header, encoded_words
from smtpkit.message.media_types import guess
from smtpkit.message.source import stamp
from smtpkit.protocol.mail_data import LineEnds, MailData

PIECE = 57 * 1024  # octets of an attachment at a time; 57 make a line of base64
SHORT = 78  # characters of a line that goes out as it is (RFC 5322 section 2.1.1)

_TYPE, _ENCODING, _DISPOSITION = "Content-Type", "Content-Transfer-Encoding", "Content-Disposition"
_LINES = (Struct("76s" * 64), Struct("76s" * 8), Struct("76s"))  # so that many are cut by one call
_SHORT_LINES = re.compile(rb"(?:(?!\.|From )[^\n]{0,%d}+\n)*+\Z" % SHORT)
_BROKEN_QP = re.compile(rb"\n[^\n]{78,}")  # longer than 76 octets and CR
_TOO_LONG = re.compile(rb"\n[^\n]{%d}" % (LONGEST_LINE + 2))
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+\Z")
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]+\Z")
_PLAIN_NAME = re.compile(r"(?!.*=\?)[!#-\[\]-~](?:[ !#-\[\]-~]*[!#-\[\]-~])?\Z")
_PLAIN_NAME_AT_MOST = 60  # characters, so that its line has no more than SHORT
_SECTION = 54  # octets of a section of a parameter (RFC 2231 section 3)
_ATTRIBUTE = "!#$&+-.^_`{}~"  # what may stand in one unencoded, beside letters and digits (section 7)


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something attached: octets, or the path of a file that is read when the mail is sent.

    ``content_type`` is guessed from the filename where it is not given. With a ``content_id`` it belongs to the HTML,
    which refers to it as ``cid:…``. Raises InvalidMail.
    """

    content: bytes | os.PathLike[str]
    filename: str | None = None
    content_type: str | None = None
    content_id: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.content, os.PathLike):
            if self.filename is None:
                object.__setattr__(self, "filename", os.path.basename(os.fspath(self.content)))  # noqa: PTH119  no Path is made
        elif isinstance(self.content, bytes | bytearray | memoryview):
            object.__setattr__(self, "content", bytes(self.content))
        else:
            raise InvalidMail(f"attachments: content is bytes or a path, not {type(self.content).__name__}")
        if self.filename is not None and (UNSAFE.search(self.filename) or not 0 < len(self.filename.encode()) <= 255):
            raise InvalidMail(f"attachments: filename {self.filename[:120]!r}: 1 to 255 octets without controls")
        if self.content_type is not None and not _CONTENT_TYPE.match(self.content_type):
            raise InvalidMail(f"attachments: content_type {self.content_type!r}: write it like application/pdf")
        if self.content_id is not None and not _CONTENT_ID.match(self.content_id):
            raise InvalidMail(f"attachments: content_id {self.content_id!r}: write it like logo or logo@example.com")

    @property
    def media_type(self) -> tuple[str, str]:
        """Type and subtype, guessed by a table that no machine's files change."""
        kind, _, subtype = (self.content_type or guess(self.filename or "")).lower().partition("/")
        return kind, subtype

    def read(self) -> bytes:
        """The octets; a file is read now. Raises InvalidMail if it cannot be."""
        if isinstance(self.content, bytes):
            return self.content
        try:
            with open(self.content, "rb") as file:  # noqa: PTH123  any os.PathLike
                return file.read()
        except OSError as error:
            raise _unreadable(self.content, error) from error


class _Told(NamedTuple):
    """Octets that are told when their turn comes: how many, and how they are told."""

    size: int
    tell: Callable[[], Iterator[bytes]]


class _Part(NamedTuple):
    """A part of the mail: the fields of its header, their names, and its body.

    ``dotted``: a line of it may begin with a dot. ``binary``: it holds octets as they are.
    """

    fields: bytes
    names: tuple[str, ...]
    body: Sequence[bytes | _Told]
    dotted: bool = False
    binary: bool = False


class _Attached(NamedTuple):
    """An attachment, looked at once: its fields, its octets, and the part it is if it must not be encoded."""

    inline: bool
    fields: bytes
    names: tuple[str, ...]
    octets: _Told
    mail: _Part | None

    def part(self, *, binary: bool) -> _Part:
        """As a part, unencoded if ``binary``."""
        if self.mail is not None:
            return self.mail
        encoding, told = ("binary", self.octets) if binary else ("base64", _in_base64(self.octets))
        return _Part(self.fields + _encoding(encoding), (*self.names, _ENCODING), (told,), binary=binary)


class Content(NamedTuple):
    """What is in a mail: text and HTML are alternatives, and what has a ``content_id`` belongs to the HTML.

    ``boundary`` is what stands in no part, such as random octets in hexadecimal; it may be empty where there is one.
    """

    text: str | None
    html: str | None
    attachments: Sequence[Attachment]
    boundary: str


def mail_data(header: bytes, names: Sequence[str], content: Content) -> MailData:
    """The mail data of a header, whose fields have these names, and of what is in the mail.

    Where something is encoded that a server may take as it is, ``binary`` gives that mail. Files are looked at here and
    read later, and both may block. Raises InvalidMail.
    """
    text, html, attachments, boundary = content
    attached = [_attached(attachment) for attachment in attachments]
    blocking = bool(attachments) and not all(isinstance(attachment.content, bytes) for attachment in attachments)
    encodes = bool(attached) and not all(one.mail for one in attached)

    def form(*, binary: bool) -> MailData:
        body = _readable(text, html, [one.part(binary=binary) for one in attached if one.inline], boundary)
        others = [one.part(binary=binary) for one in attached if not one.inline]
        if others:
            body = _multipart("mixed", (body, *others), f"=_1{boundary}")
        whole = b"%b%bMIME-Version: 1.0\r\n" % (header, body.fields)
        check_header(whole, (*names, *body.names, "MIME-Version"))
        pieces, size = _joined((whole, b"\r\n", *body.body))
        dotted = body.dotted or body.binary or whole[:1] == b"." or b"\n." in whole
        return MailData(
            partial(_tell, pieces),
            size,
            eight_bit=not whole.isascii(),
            mended=True,
            wire_safe=not dotted,
            blocking=blocking,
            binary=partial(form, binary=True) if encodes and not binary else None,
            raw=body.binary,
        )

    return form(binary=False)


# --- parts ------------------------------------------------------------------------------------------------------------


def _readable(text: str | None, html: str | None, pictures: Sequence[_Part], boundary: str) -> _Part:
    """What is read: the text, the HTML with its pictures, or both as alternatives; nothing at all is an empty text."""
    if html is None:
        return _text(text or "", "plain")
    part = _text(html, "html")
    if pictures:
        part = _multipart("related", (part, *pictures), f"=_3{boundary}", '; type="text/html"')
    return part if text is None else _multipart("alternative", (_text(text, "plain"), part), f"=_2{boundary}")


def _text(text: str, subtype: str) -> _Part:
    encoding, octets = encoded(text)
    fields = f"{_TYPE}: text/{subtype}; charset=utf-8\r\n{_ENCODING}: {encoding}\r\n"
    return _Part(fields.encode(), (_TYPE, _ENCODING), (octets,))


def _multipart(subtype: str, parts: Sequence[_Part], boundary: str, more: str = "") -> _Part:
    """Parts with the boundary between them. It is told from another by its beginning, and ``=_`` is in no encoding."""
    body: list[bytes | _Told] = []
    between = f"--{boundary}\r\n".encode()
    for part in parts:
        check_header(part.fields, part.names)
        body += (between, part.fields, b"\r\n", *part.body)
        between = f"\r\n--{boundary}\r\n".encode()
    body.append(f"\r\n--{boundary}--\r\n".encode())
    binary = any(part.binary for part in parts)
    dotted = any(part.dotted for part in parts)
    fields = f'{_TYPE}: multipart/{subtype}{more};\r\n boundary="{boundary}"\r\n'.encode()
    if not binary:
        return _Part(fields, (_TYPE,), body, dotted)
    return _Part(fields + _encoding("binary"), (_TYPE, _ENCODING), body, dotted, binary=True)


def _encoding(encoding: str) -> bytes:
    return f"{_ENCODING}: {encoding}\r\n".encode()


def _attached(attachment: Attachment) -> _Attached:
    """Look at an attachment: at its name and its type, at a file's size, and through what may be a mail."""
    kind, subtype = attachment.media_type
    octets = _octets(attachment.content)
    mail = _as_mail(octets) if (kind, subtype) == ("message", "rfc822") else None
    if mail is None and kind in {"message", "multipart"}:
        kind, subtype = "application", "octet-stream"  # which these may not be, once encoded (RFC 2045 section 6.4)
    in_type, in_disposition = _parameters(attachment.filename) if attachment.filename is not None else ("", "")
    inline = attachment.content_id is not None
    fields = f"{_TYPE}: {kind}/{subtype}{in_type}\r\n"
    fields += f"{_DISPOSITION}: {'inline' if inline else 'attachment'}{in_disposition}\r\n"
    names: tuple[str, ...] = (_TYPE, _DISPOSITION)
    if inline:
        fields += f"Content-ID: <{attachment.content_id}>\r\n"
        names = (*names, "Content-ID")
    header = fields.encode()
    if mail is not None:
        mail = mail._replace(fields=header + _encoding("7bit"), names=(*names, _ENCODING))
    return _Attached(inline, header, names, octets, mail)


def _parameters(filename: str) -> tuple[str, str]:
    """What the name of a file adds to Content-Type, and to Content-Disposition.

    A plain name is quoted. Another is told by RFC 2231, which some readers do not know: they find it in Content-Type,
    as it was told before that.
    """
    plain = _PLAIN_NAME.match(filename)
    if plain and len(filename) <= _PLAIN_NAME_AT_MOST:
        return "", f';\r\n filename="{filename}"'
    name = filename if plain else "\r\n".join(encoded_words(filename)).removeprefix(" ")
    sections = [""]
    for character in filename:
        coded = quote(character, safe=_ATTRIBUTE)
        if len(sections[-1]) + len(coded) > _SECTION:
            sections.append("")
        sections[-1] += coded
    sections[0] = f"utf-8''{sections[0]}"
    numbers = [""] if len(sections) == 1 else [f"*{number}" for number in range(len(sections))]
    told = (f";\r\n filename{number}*={section}" for number, section in zip(numbers, sections, strict=True))
    return f';\r\n name="{name}"', "".join(told)


# --- octets -----------------------------------------------------------------------------------------------------------


def _joined(pieces: Sequence[bytes | _Told]) -> tuple[Sequence[bytes | _Told], int]:
    """The same with octets at hand in one piece where they are neighbours, and how many octets that makes."""
    joined: list[bytes | _Told] = []
    at_hand: list[bytes] = []
    size = 0
    for piece in pieces:
        if isinstance(piece, bytes):
            at_hand.append(piece)
            size += len(piece)
        else:
            joined += (b"".join(at_hand), piece)
            size += piece.size
            at_hand = []
    return [*joined, b"".join(at_hand)], size


def _tell(pieces: Sequence[bytes | _Told]) -> Iterator[bytes]:
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            yield from piece.tell()


def _octets(content: bytes | os.PathLike[str]) -> _Told:
    """The octets of an attachment, in pieces of PIECE but for the last. Raises InvalidMail for an unusable file."""
    if isinstance(content, bytes):
        return _Told(len(content), lambda: (content[at : at + PIECE] for at in range(0, len(content), PIECE)))
    try:
        first = os.stat(content)  # noqa: PTH116  any os.PathLike
        if stat.S_ISREG(first.st_mode) and first.st_size:
            return _Told(first.st_size, lambda: _read(content, first))
        with open(content, "rb") as file:  # noqa: PTH123  a pipe, or a file that the system makes up: read once, and kept
            return _octets(file.read())
    except OSError as error:
        raise _unreadable(content, error) from error


def _read(path: os.PathLike[str], first: os.stat_result) -> Iterator[bytes]:
    """A file's octets. Raises InvalidMail if it is not, or does not stay, what it was."""
    size = 0
    try:
        with open(path, "rb") as file:  # noqa: PTH123  any os.PathLike
            while stamp(os.fstat(file.fileno())) == stamp(first):
                if size == first.st_size:
                    return
                piece = file.read(PIECE)
                size += len(piece)
                yield piece
    except OSError as error:
        raise _unreadable(path, error) from error
    raise InvalidMail(f"attachments: {os.fspath(path)}: the file was changed since the mail was prepared")


def _unreadable(path: os.PathLike[str], error: OSError) -> InvalidMail:
    return InvalidMail(f"attachments: {os.fspath(path)}: {error.strerror or error}")


def _as_mail(octets: _Told) -> _Part | None:
    """A mail that is attached, its line ends mended; None if that is not enough, for it may not be encoded."""
    ends, size, dotted, fit, seen = LineEnds(), 0, False, True, b"\n"
    for raw in chain(octets.tell(), (None,)):  # to its end, so that a file is closed
        if raw is not None:
            fit = fit and raw.isascii() and b"\0" not in raw
        if fit:
            mended = ends.end() if raw is None else ends.mend(raw)
            size += len(mended)
            seen = seen[-LONGEST_LINE - 4 :] + mended
            fit = _TOO_LONG.search(seen) is None
            dotted = dotted or b"\n." in seen
    return _Part(b"", (), (_Told(size, partial(_mended, octets)),), dotted) if fit else None


def _mended(octets: _Told) -> Iterator[bytes]:
    ends = LineEnds()
    for raw in octets.tell():
        yield ends.mend(raw)
    yield ends.end()


# --- encodings --------------------------------------------------------------------------------------------------------


def encoded(text: str) -> tuple[str, bytes]:
    """A text's Content-Transfer-Encoding and its octets: lines that end in CRLF, also the last, in UTF-8.

    7bit for ASCII in short lines of which none begins with a dot or ``From ``, which others would change; else
    quoted-printable or base64, whichever is shorter.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text[-1:] != "\n":
        text += "\n"
    octets = text.encode()
    plain = octets.isascii() and _SHORT_LINES.match(octets)
    octets = octets.replace(b"\n", b"\r\n")
    if plain:
        return "7bit", octets
    quoted = quoted_printable(octets)
    if len(quoted) <= _size_in_base64(len(octets)):
        return "quoted-printable", quoted
    return "base64", base64_lines(octets)


def quoted_printable(octets: bytes) -> bytes:
    """Lines that end in CRLF, as quoted-printable (RFC 2045 section 6.7), none of which begins with a dot or ``From ``.

    What is made of trailing blanks, dots and ``From `` may make a line too long by some octets: it is broken once more.
    """
    quoted = b"\n" + b2a_qp(octets, istext=True)
    quoted = quoted.replace(b"\n.", b"\n=2E").replace(b"\nFrom ", b"\n=46rom ")
    return _BROKEN_QP.sub(_broken, quoted)[1:]


def _broken(found: re.Match[bytes]) -> bytes:
    """A line, its beginning included, broken where no encoded octet is cut; what follows begins with one."""
    line = found[0]
    at = line.find(b"=", 72, 74)
    at = 74 if at < 0 else at
    first, rest = line[at : at + 1], line[at + 1 :]
    return line[:at] + b"=\r\n" + (first if first == b"=" else b"=%02X" % ord(first)) + rest


def base64_lines(octets: bytes) -> bytes:
    """The octets in base64, in lines of 76 characters that end in CRLF (RFC 2045 section 6.8)."""
    encoded = b2a_base64(octets, newline=False)
    at = 0
    lines: list[bytes] = []
    for several in _LINES:
        while at + several.size <= len(encoded):
            lines += several.unpack_from(encoded, at)
            at += several.size
    if at < len(encoded):
        lines.append(encoded[at:])
    lines.append(b"")
    return b"\r\n".join(lines)


def _in_base64(octets: _Told) -> _Told:
    return _Told(_size_in_base64(octets.size), lambda: map(base64_lines, octets.tell()))


def _size_in_base64(size: int) -> int:
    """How many octets ``base64_lines`` makes of so many."""
    characters = -(-size // 3) * 4
    return characters + -(-characters // 76) * 2
