"""Messages: whatever the caller hands in becomes an envelope and mail data.

Rules: nothing of the caller's is changed; Bcc and Resent-Bcc never are in the mail data; what can be told twice tells
the same twice; files are read a piece at a time, and never in the caller's event loop.
"""

import io
import os
import re
import secrets
import sys
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeAlias

from smtpkit.errors import InvalidMail, SMTPError
from smtpkit.message import header as fields
from smtpkit.message.address import (
    Mailbox,
    address_of,
    addresses_of,
    identity,
    mailbox_of,
    mailboxes_of,
    parse_mailboxes,
)
from smtpkit.message.header import ADDRESS_FIELDS, message_id
from smtpkit.message.mime import Attachment, Content, mail_data
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
from smtpkit.protocol.envelope import Envelope, ForwardPath, Notify, plain_path
from smtpkit.protocol.mail_data import MailData

_Found: TypeAlias = tuple[str, str | list[Mailbox]]  # a field: its name in lower case, and its text or its mailboxes
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
_PEOPLE = {"to": "To", "cc": "Cc", "bcc": "Bcc", "reply_to": "Reply-To"}
_KEPT = (str, bytes, tuple, type(None))  # what can be read again and again
_SURROGATE = re.compile("[\ud800-\udfff]")
_SENT_ADDRESS_FIELDS = ADDRESS_FIELDS - {*fields.NEVER_SENT}
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
    _found: "tuple[_Found, ...]" = field(init=False, repr=False)  # the fields, Bcc too
    _boundary: str = field(init=False, repr=False)  # what is in no part: nobody knows it before

    def __post_init__(self) -> None:
        for name in _PEOPLE:
            value = getattr(self, name)
            if not isinstance(value, _KEPT) and isinstance(value, Iterable):
                object.__setattr__(self, name, tuple(value))
        for name, text in (("text", self.text), ("html", self.html)):
            if text is not None and not _is_text(text):
                raise InvalidMail(f"{name}: a str without NUL and lone surrogates; attach what is no text")
        if not isinstance(self.subject, str):
            raise InvalidMail(f"subject: a str, not {type(self.subject).__name__}")
        if self.attachments != ():
            object.__setattr__(self, "attachments", tuple(_attachments(self.attachments)))
            if self.html is None and any(attachment.content_id for attachment in self._attached):
                raise InvalidMail("attachments: content_id is for html=, which is not given")
        sender = mailbox_of(self.sender, "sender")
        found: list[_Found] = [("from", [sender])]
        lines = [fields.written("From", [sender])]
        for argument, name in _PEOPLE.items():
            if value := getattr(self, argument):
                mailboxes = mailboxes_of(value, argument)
                found.append((name.lower(), mailboxes))
                line = fields.written(name, mailboxes)
                if argument != "bcc":  # told to the server only
                    lines.append(line)
        if self.subject:
            lines.append(fields.written("Subject", self.subject))
            found.append(("subject", self.subject))
        for name, written, line in _further(self.headers, sender):
            found.append((name, written))
            lines.append(line)
        object.__setattr__(self, "_header", b"".join(lines))
        object.__setattr__(self, "_found", tuple(found))
        several = self.attachments or (self.text is not None and self.html is not None)
        object.__setattr__(self, "_boundary", secrets.token_hex(16) if several else "")

    @property
    def _attached(self) -> tuple[Attachment, ...]:
        return self.attachments  # type: ignore[return-value]  # so made at construction

    @property
    def message_id(self) -> str:
        """The Message-ID of its header."""
        return _first(self._found, "message-id") or ""

    def as_bytes(self) -> bytes:
        """The mail data, in 7 bits unless an address is not ASCII; files are read now. Raises InvalidMail."""
        return b"".join(self._mail_data().tell())  # type: ignore[arg-type]  # nobody is waited for

    def _mail_data(self) -> MailData:
        names = [name for name, _ in self._found if name != "bcc"]
        content = Content(self.text, self.html, self._attached, self._boundary)
        return mail_data(self._header, names, content)


async def prepare(
    message: Any,
    sender: str | None = None,
    recipients: str | Iterable[str] | None = None,
    *,
    newlines: Literal["normalize", "strict"] = "normalize",
    on_refused: Literal["continue", "stop"] = "continue",
    dsn: DSN | None = None,
    require_tls: bool = False,
    run: Runner,
) -> Prepared:
    """Make an envelope and mail data of what the caller handed in.

    ``sender`` ("" for the null reverse-path) and ``recipients`` are taken from the header where they are None: from the
    newest Resent block if there is one. Of a one-shot source only the header is read. ``run`` runs a function that
    blocks; nothing else is awaited but an async iterable. What is prepared already stays so. Raises InvalidMail.
    """
    found: Sequence[_Found]
    identity: str | None
    if isinstance(message, Prepared):
        return message
    if isinstance(message, Message):
        found, data, identity = message._found, await _composed(message, run), message.message_id  # noqa: SLF001
        utf8 = _header_needs_utf8(found)
    else:
        strict = newlines == "strict"
        if isinstance(message, bytes) and len(message) <= SMALL:
            header, data = in_memory(message, strict=strict)
        else:
            header, data = await _source(message, sender, run, strict=strict)
        plain, identity = header.isascii(), fields.text_of(header, "message-id")
        found = [] if plain and sender is not None and recipients is not None else fields.fields(header)
        utf8 = not plain and _header_needs_utf8(found)
    envelope = _envelope(found, sender, recipients, dsn or _NO_DSN, required=on_refused == "stop", utf8=utf8)
    if require_tls is not False:
        envelope = replace(envelope, require_tls=require_tls)
    return Prepared(envelope, data, identity, message)


# --- the envelope -----------------------------------------------------------------------------------------------------


def _envelope(
    found: Sequence[_Found],
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
        addresses = [mailbox.address for mailbox in mailboxes]
        if not addresses:
            raise InvalidMail('recipients: the header has none; give recipients=["bob@example.com"]')
    else:
        addresses = addresses_of(recipients, "recipients")
        if not addresses:
            raise InvalidMail('recipients: nobody to send to; give recipients=["bob@example.com"]')
    if len(addresses) > 1 and len({address.lower() for address in addresses}) < len(addresses):
        addresses = _once_each(addresses)
    paths = _forward_paths(addresses, dsn, required=required)
    utf8 = utf8 or not reverse_path.isascii() or not "".join(addresses).isascii()
    return Envelope(reverse_path, paths, utf8, dsn.ret, dsn.envelope_id)


def _once_each(addresses: list[str]) -> list[str]:
    """The addresses, told apart."""
    once: dict[tuple[str, str], str] = {}
    for address in addresses:
        once.setdefault(identity(address), address)
    return list(once.values())


def _prefix(found: Sequence[_Found]) -> str:
    """Which fields the envelope is taken from: those of the Resent block if there is one (RFC 5322 section 3.6.6)."""
    names = [name for name, _ in found]
    blocks = max(names.count("resent-date"), names.count("resent-from"))
    if blocks > 1:
        raise InvalidMail("message: it has more than one Resent block; give sender= and recipients=")
    return "resent-" if blocks else ""


def _mailboxes(found: Sequence[_Found], wanted: str) -> list[Mailbox]:
    return [
        one
        for name, value in found
        if name == wanted
        for one in (parse_mailboxes(value, f"{wanted.title()} field") if isinstance(value, str) else value)
    ]


def _header_needs_utf8(found: Sequence[_Found]) -> bool:
    """Is an address in the header not ASCII as it is written there (RFC 6532)?"""
    for name, value in found:
        if name not in _SENT_ADDRESS_FIELDS or (isinstance(value, str) and value.isascii()):
            continue
        try:
            written = map(str, parse_mailboxes(value)) if isinstance(value, str) else (one.address for one in value)
        except InvalidMail:
            continue  # the caller gave the envelope, and may send what we cannot read
        if not all(map(str.isascii, written)):
            return True
    return False


def _forward_paths(addresses: list[str], dsn: DSN, *, required: bool) -> tuple[ForwardPath, ...]:
    if not (dsn.notify or dsn.original):
        return tuple([plain_path(address, required=required) for address in addresses])
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


def _first(found: Sequence[_Found], wanted: str) -> str | None:
    return next((text for name, text in found if name == wanted and text and isinstance(text, str)), None)


# --- what it is ------------------------------------------------------------------------------------------------------


async def _source(message: Any, sender: str | None, run: Runner, *, strict: bool) -> Source:
    """Take the message for what it is. Raises InvalidMail, also for whatever goes wrong in a source of the caller's."""
    try:
        work, weight = _reading(message, sender, strict=strict)
        source = work() if weight <= SMALL else await run(work)
        return source if isinstance(source, Source) else await source
    except SMTPError:
        raise
    except Exception as error:
        raise InvalidMail(f"message: it cannot be read ({type(error).__name__}: {error})") from error


def _reading(message: Any, sender: str | None, *, strict: bool) -> tuple[Reading, int]:
    """What reads the message, taken for what it is, and about how many octets that will look through.

    Raises InvalidMail, and whatever goes wrong in a source of the caller's.
    """
    if isinstance(message, _OCTETS):
        octets = bytes(message)
        return partial(in_memory, octets, strict=strict), len(octets)
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


async def _composed(message: Message, run: Runner) -> MailData:
    """The mail data of a Message: at once where it is small and no file is looked at."""
    attached = message._attached  # noqa: SLF001  of this module
    weight = len(message.text or "") + len(message.html or "")
    for attachment in attached:
        if not isinstance(attachment.content, bytes):
            weight += SMALL + 1
        elif attachment.media_type[0] == "message":  # which is looked through
            weight += len(attachment.content)
    if weight <= SMALL:
        return message._mail_data()  # noqa: SLF001
    data: MailData = await run(message._mail_data)  # noqa: SLF001
    return data


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


def _further(headers: Mapping[Any, Any], sender: Mailbox) -> "Iterator[tuple[str, str | list[Mailbox], bytes]]":
    """Date, Message-ID and the fields of ``headers=``: name in lower case, value, and as written."""
    if not isinstance(headers, Mapping):
        raise InvalidMail("headers: a mapping of names to texts")
    given = {name.lower() if isinstance(name, str) else name: name for name in headers}
    if "date" not in given:
        text = fields.date()
        yield "date", text, f"Date: {text}\r\n".encode()
    if "message-id" not in given:
        text = message_id(sender.address.rpartition("@")[2])
        yield "message-id", text, f"Message-ID: {text}\r\n".encode()
    for lower, name in given.items():
        value = headers[name]
        if not isinstance(lower, str) or not isinstance(value, str):
            raise InvalidMail(f"headers: {name!r} and its value are to be str")
        if lower in _OWN_FIELDS or lower.startswith("content-"):
            raise InvalidMail(f"headers: {name} is set by {_OWN_FIELDS.get(lower, 'the content itself')}")
        if lower in ADDRESS_FIELDS:
            mailboxes = parse_mailboxes(value, name)
            yield lower, mailboxes, fields.written(name, mailboxes)
        else:
            line = fields.written(name, value)
            yield lower, fields.fields(line)[0][1], line


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value and (value.isascii() or not _SURROGATE.search(value))
