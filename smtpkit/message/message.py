"""Messages: whatever the caller hands in becomes an envelope and mail data.

Rules: nothing of the caller's is changed; Bcc and Resent-Bcc never are in the mail data; what can be told twice tells
the same twice; files are read a piece at a time, and never in the caller's event loop.
"""

import io
import os
import re
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from smtpkit.errors import InvalidMail, SMTPError
from smtpkit.message import header as fields
from smtpkit.message.address import (
    UNSAFE,
    Mailbox,
    address_of,
    mailbox_of,
    mailboxes_of,
    parse_mailboxes,
)
from smtpkit.message.header import ADDRESS_FIELDS, message_id
from smtpkit.message.source import (
    Source,
    async_one_shot,
    file_source,
    in_memory,
    octets_of,
    one_shot,
    path_source,
    repeatable,
)
from smtpkit.message.stdlib import stdlib_source, weight_of
from smtpkit.protocol.envelope import Envelope, ForwardPath, Notify
from smtpkit.protocol.mail_data import MailData

if TYPE_CHECKING:
    from email.message import EmailMessage, MIMEPart

Runner: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
Reading: TypeAlias = Callable[[], Source | Awaitable[Source]]

SMALL = 262_144  # octets that may be looked through without leaving the event loop

_OCTETS = (bytes, bytearray, memoryview)
_OWN_FIELDS = {
    "from": "sender=",
    "to": "to=",
    "cc": "cc=",
    "bcc": "bcc=",
    "resent-bcc": "recipients= of send",
    "reply-to": "reply_to=",
    "subject": "subject=",
    "mime-version": "nothing, it is always there",
}
_CONTENT_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+\Z")
_CONTENT_ID = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.@-]+\Z")
_ACCEPTED = (
    "an EmailMessage, a smtpkit.Message, bytes, a Path, a binary file, or an iterable or async iterable of bytes"
)


@dataclass(frozen=True, slots=True)
class DSN:
    """What a mail asks of delivery status notifications (RFC 3461).

    ``notify`` holds for every recipient, or maps an address to what holds for it; where it is given, the original
    recipient (ORCPT) is sent along: the address itself, or what ``original`` maps it to.
    """

    notify: tuple[Notify, ...] | Mapping[str, tuple[Notify, ...]] = ()
    ret: Literal["FULL", "HDRS"] | None = None
    envelope_id: str | None = None
    original: Mapping[str, str] = field(default_factory=dict)


_NO_DSN = DSN()


@dataclass(slots=True)
class Prepared:
    """A mail ready to be sent. ``item`` is what the caller handed in; ``message_id`` is that of its header."""

    envelope: Envelope
    mail_data: MailData
    message_id: str | None
    item: Any


@dataclass(frozen=True, slots=True)
class Attachment:
    """Something attached: octets, or the path of a file that is read when the mail is prepared.

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
        if self.content_type is not None:
            kind, _, subtype = self.content_type.lower().partition("/")
            return kind, subtype
        from mimetypes import MimeTypes

        guess, encoding = MimeTypes().guess_type(self.filename or "")
        if guess is None or encoding is not None:
            return "application", "octet-stream"
        kind, _, subtype = guess.partition("/")
        return kind, subtype

    def read(self) -> bytes:
        """The octets; a file is read now. Raises InvalidMail if it cannot be."""
        if isinstance(self.content, bytes):
            return self.content
        try:
            with open(self.content, "rb") as file:  # noqa: PTH123  any os.PathLike
                return file.read()
        except OSError as error:
            raise InvalidMail(f"attachments: {os.fspath(self.content)}: {error.strerror or error}") from error


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Message:
    """A mail as people write one: who to whom, a subject, a text, HTML, attachments.

    Addresses are ``ann@example.com`` or ``Ann <ann@example.com>``; ``to``, ``cc``, ``bcc`` and ``reply_to`` take one
    text or a list. ``bcc`` is told to the server only. ``headers`` are further fields; Date and Message-ID among them
    replace those made here. Files are read when the mail is sent. Raises InvalidMail, which names the argument.
    """

    sender: str
    to: str | Iterable[str] = ()
    cc: str | Iterable[str] = ()
    bcc: str | Iterable[str] = ()
    reply_to: str | Iterable[str] | None = None
    subject: str = ""
    text: str | None = None
    html: str | None = None
    attachments: Iterable[Attachment | os.PathLike[str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    _header: bytes = field(init=False, repr=False)
    _blind: bytes = field(init=False, repr=False)  # the Bcc field, which is read and never sent

    def __post_init__(self) -> None:
        for name in ("to", "cc", "bcc", "reply_to"):
            value = getattr(self, name)
            if not isinstance(value, str | bytes) and isinstance(value, Iterable):
                object.__setattr__(self, name, tuple(value))
        for name in ("text", "html"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or re.search("[\0\ud800-\udfff]", value)):
                raise InvalidMail(f"{name}: a str without NUL and lone surrogates; attach what is no text")
        if not isinstance(self.subject, str):
            raise InvalidMail(f"subject: a str, not {type(self.subject).__name__}")
        object.__setattr__(self, "attachments", tuple(_attachments(self.attachments)))
        if self.html is None and any(attachment.content_id for attachment in self._attached):
            raise InvalidMail("attachments: content_id is for html=, which is not given")
        sender = mailbox_of(self.sender, "sender")
        lines = [fields.field("From", [sender])]
        for name, argument in (("To", "to"), ("Cc", "cc"), ("Reply-To", "reply_to")):
            if getattr(self, argument):
                lines.append(fields.field(name, mailboxes_of(getattr(self, argument), argument)))
        if self.subject:
            lines.append(fields.field("Subject", self.subject))
        lines.extend(_further(self.headers, sender))
        blind = fields.field("Bcc", mailboxes_of(self.bcc, "bcc")) if self.bcc else b""
        object.__setattr__(self, "_header", b"".join(lines))
        object.__setattr__(self, "_blind", blind)

    @property
    def _attached(self) -> tuple[Attachment, ...]:
        return self.attachments  # type: ignore[return-value]  # so made at construction

    @property
    def message_id(self) -> str:
        """The Message-ID of its header."""
        return fields.text_of(self._header, "message-id") or ""

    def as_bytes(self) -> bytes:
        """The mail data, in 7 bits unless an address is not ASCII; files are read now. Raises InvalidMail."""
        from email.generator import BytesGenerator

        body = self._body()
        buffer = io.BytesIO()
        BytesGenerator(buffer, mangle_from_=False).flatten(body)
        octets = self._header + buffer.getvalue()
        header, _ = fields.split_header(octets)
        fields.check_header(header, [name for name, _ in fields.fields(self._header)] + body.keys())
        return octets

    def _body(self) -> "EmailMessage":
        from email.message import EmailMessage
        from email.policy import SMTP

        body = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
        readable: MIMEPart = body
        if self.html is None or self.text is not None:
            body.set_content(self.text or "")
        if self.html is not None and self.text is None:
            body.set_content(self.html, subtype="html")
        elif self.html is not None:
            body.add_alternative(self.html, subtype="html")
            _, readable = body.iter_parts()
        for attachment in sorted(self._attached, key=lambda one: one.content_id is None):
            if attachment.content_id is not None:
                _attach(readable.add_related, attachment, disposition="inline", cid=f"<{attachment.content_id}>")
            else:
                _attach(body.add_attachment, attachment)
        return body


async def prepare(
    message: Any,
    sender: str | None = None,
    recipients: str | Iterable[str] | None = None,
    *,
    newlines: Literal["normalize", "strict"] = "normalize",
    on_refused: Literal["continue", "stop"] = "continue",
    dsn: DSN | None = None,
    run: Runner,
) -> Prepared:
    """Make an envelope and mail data of what the caller handed in.

    ``sender`` ("" for the null reverse-path) and ``recipients`` are taken from the header where they are None: from the
    newest Resent block if there is one. Of a one-shot source only the header is read. ``run`` runs a function that
    blocks; nothing else is awaited but an async iterable. Raises InvalidMail.
    """
    try:
        work, weight = _reading(message, sender, strict=newlines == "strict")
        source = work() if weight <= SMALL else await run(work)
        if not isinstance(source, Source):
            source = await source
    except SMTPError:
        raise
    except Exception as error:
        raise InvalidMail(f"message: it cannot be read ({type(error).__name__}: {error})") from error
    header, mail_data = source
    plain = header.isascii()
    found = [] if plain and sender is not None and recipients is not None else fields.fields(header)
    utf8 = not plain and _header_needs_utf8(found)
    envelope = _envelope(found, sender, recipients, dsn or _NO_DSN, required=on_refused == "stop", utf8=utf8)
    return Prepared(envelope, mail_data, fields.text_of(header, "message-id"), message)


# --- the envelope -----------------------------------------------------------------------------------------------------


def _envelope(
    found: list[tuple[str, str]],
    sender: str | None,
    recipients: str | Iterable[str] | None,
    dsn: DSN,
    *,
    required: bool,
    utf8: bool,
) -> Envelope:
    """The envelope of what was given, and of the header where nothing was."""
    if sender is None:
        prefix = _prefix(found)
        mailboxes = _mailboxes(found, f"{prefix}sender") or _mailboxes(found, f"{prefix}from")
        if not mailboxes:
            raise InvalidMail('sender: the header has no From; give sender="ann@example.com", or "" for none')
        reverse_path = mailboxes[0].address
    else:
        reverse_path = "" if sender in ("", "<>") else address_of(sender, "sender")
    if recipients is None:
        prefix = _prefix(found)
        mailboxes = [one for name in ("to", "cc", "bcc") for one in _mailboxes(found, prefix + name)]
        if not mailboxes:
            raise InvalidMail('recipients: the header has none; give recipients=["bob@example.com"]')
    else:
        mailboxes = mailboxes_of(recipients, "recipients")
        if not mailboxes:
            raise InvalidMail('recipients: nobody to send to; give recipients=["bob@example.com"]')
    addresses = [mailbox.address for mailbox in mailboxes]
    if len({address.lower() for address in addresses}) < len(addresses):
        addresses = _once_each(addresses)
    paths = _forward_paths(addresses, dsn, required=required)
    utf8 = utf8 or not (reverse_path.isascii() and all(map(str.isascii, addresses)))
    return Envelope(reverse_path, paths, utf8, dsn.ret, dsn.envelope_id)


def _once_each(addresses: list[str]) -> list[str]:
    """The addresses, told apart: a domain is the same in either case, a local part is not."""
    once: dict[tuple[str, str], str] = {}
    for address in addresses:
        local, _, domain = address.rpartition("@")
        once.setdefault((local, domain.lower()), address)
    return list(once.values())


def _prefix(found: list[tuple[str, str]]) -> str:
    """Which fields the envelope is taken from: those of the Resent block if there is one (RFC 5322 section 3.6.6)."""
    names = [name for name, _ in found]
    blocks = max(names.count("resent-date"), names.count("resent-from"))
    if blocks > 1:
        raise InvalidMail("message: it has more than one Resent block; give sender= and recipients=")
    return "resent-" if blocks else ""


def _mailboxes(found: list[tuple[str, str]], wanted: str) -> list[Mailbox]:
    return [one for name, text in found if name == wanted for one in parse_mailboxes(text, f"{wanted.title()} field")]


def _header_needs_utf8(found: list[tuple[str, str]]) -> bool:
    """Is an address in the header not ASCII as it is written there (RFC 6532)?"""
    for name, text in found:
        if name in ADDRESS_FIELDS and name not in fields.NEVER_SENT and not text.isascii():
            try:
                mailboxes = parse_mailboxes(text)
            except InvalidMail:
                continue  # the caller gave the envelope, and may send what we cannot read
            if not all(str(one).isascii() for one in mailboxes):
                return True
    return False


def _forward_paths(addresses: list[str], dsn: DSN, *, required: bool) -> tuple[ForwardPath, ...]:
    if not (dsn.notify or dsn.original):
        return tuple([ForwardPath(address, required) for address in addresses])
    original = {address_of(address, "original"): text for address, text in dsn.original.items()}
    notify = {}
    if isinstance(dsn.notify, Mapping):
        notify = {address_of(address, "notify"): _conditions(wanted) for address, wanted in dsn.notify.items()}
    else:
        notify = dict.fromkeys(addresses, _conditions(dsn.notify))
    stray = (original.keys() | notify.keys()) - set(addresses)
    if stray:
        raise InvalidMail(f"dsn: {', '.join(sorted(stray))} is no recipient of this mail")
    wanted = [(address, notify.get(address, ())) for address in addresses]
    return tuple(
        ForwardPath(address, required, conditions, original.get(address, address if conditions else None))
        for address, conditions in wanted
    )


def _conditions(notify: tuple[Notify, ...]) -> tuple[Notify, ...]:
    if isinstance(notify, str):
        raise InvalidMail(f'notify: a tuple such as ("SUCCESS", "FAILURE"), not the str {notify!r}')
    return tuple(notify)


# --- what it is ------------------------------------------------------------------------------------------------------


def _reading(message: Any, sender: str | None, *, strict: bool) -> tuple[Reading, int]:
    """What reads the message, taken for what it is, and about how many octets that will look through.

    Raises InvalidMail, and whatever goes wrong in a source of the caller's.
    """
    if isinstance(message, _OCTETS):
        octets = bytes(message)
        return partial(in_memory, octets, strict=strict), len(octets)
    if isinstance(message, Message):
        weight = SMALL + 1 if message.attachments else len(message.text or "") + len(message.html or "")
        return partial(_composed, message, strict=strict), weight
    stdlib = sys.modules.get("email.message")  # not imported, so not the caller's either
    if stdlib is not None and isinstance(message, stdlib.Message):
        return partial(stdlib_source, message, sender, strict=strict), weight_of(message)
    if isinstance(message, os.PathLike):
        return partial(path_source, message, strict=strict), SMALL + 1
    if isinstance(message, str):
        raise InvalidMail(
            f"message {message[:60]!r}: a str may be a file's name or a text; give Path(...) or .encode()"
        )
    if isinstance(message, list | tuple):
        chunks = tuple(map(octets_of, message))
        return partial(repeatable, lambda: iter(chunks), strict=strict, blocking=False), sum(map(len, chunks))
    if isinstance(message, AsyncIterable):
        return partial(async_one_shot, message, strict=strict), 0
    if isinstance(message, io.TextIOBase):
        raise InvalidMail('message: a text file; open it as binary: open(path, "rb")')
    if hasattr(message, "read"):
        return partial(file_source, message, strict=strict), SMALL + 1
    if isinstance(message, Iterable):
        return partial(one_shot, map(octets_of, message), strict=strict, blocking=False), 0
    raise InvalidMail(f"message: {_ACCEPTED}; not {type(message).__name__}")


def _composed(message: Message, *, strict: bool) -> Source:
    header, mail_data = in_memory(message.as_bytes(), strict=strict)
    return Source(header + message._blind, mail_data)  # noqa: SLF001  of this module


# --- the parts of a Message -------------------------------------------------------------------------------------------


def _attachments(given: Any) -> Iterator[Attachment]:
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise InvalidMail("attachments: a list of paths and Attachment values")
    for one in given:
        if isinstance(one, Attachment):
            yield one
        elif isinstance(one, os.PathLike):
            yield Attachment(one)
        else:
            raise InvalidMail(f"attachments: Path({one!r}) or Attachment(content, filename), not {type(one).__name__}")


def _attach(add: Callable[..., None], attachment: Attachment, **how: str) -> None:
    """Add a part. A message may not be encoded (RFC 2046 section 5.2.1), so it is one only where it need not be."""
    octets = attachment.read()
    kind, subtype = attachment.media_type
    if attachment.filename is not None:
        how["filename"] = attachment.filename
    if (kind, subtype) == ("message", "rfc822") and octets.isascii():
        from email import message_from_bytes
        from email.policy import SMTP

        add(message_from_bytes(octets, policy=SMTP), **how)
    elif kind in {"message", "multipart"}:
        add(octets, "application", "octet-stream", **how)
    else:
        add(octets, kind, subtype, **how)


def _further(headers: Mapping[Any, Any], sender: Mailbox) -> Iterator[bytes]:
    """Date, Message-ID and the fields of ``headers=``."""
    from datetime import UTC, datetime
    from email.utils import format_datetime

    if not isinstance(headers, Mapping):
        raise InvalidMail("headers: a mapping of names to texts")
    given = {name.lower() if isinstance(name, str) else name: name for name in headers}
    if "date" not in given:
        yield fields.field("Date", format_datetime(datetime.now(UTC)))
    if "message-id" not in given:
        yield fields.field("Message-ID", message_id(sender.address.rpartition("@")[2]))
    for lower, name in given.items():
        value = headers[name]
        if not isinstance(lower, str) or not isinstance(value, str):
            raise InvalidMail(f"headers: {name!r} and its value are to be str")
        if lower in _OWN_FIELDS or lower.startswith("content-"):
            raise InvalidMail(f"headers: {name} is set by {_OWN_FIELDS.get(lower, 'the content itself')}")
        yield fields.field(name, parse_mailboxes(value, name) if lower in ADDRESS_FIELDS else value)
