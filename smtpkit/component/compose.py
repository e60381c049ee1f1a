"""From the properties to a mail: its header, its body, its envelope.

Rules: a field holds what its property says and nothing else, ``check_header`` looks last; who gets a blind copy is in
the envelope only; the envelope is the union of SendTo, Cc, BCc and the MessageRecipient arrays, each mailbox once.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from smtpkit.component.errors import NO_RECIPIENT, NO_SENDER, ComponentError
from smtpkit.component.settings import CODE_PAGES
from smtpkit.errors import InvalidMail
from smtpkit.message import header as header_of
from smtpkit.message.address import Mailbox, identity, mailbox_of, mailboxes_of, parse_mailboxes
from smtpkit.message.header import ADDRESS_FIELDS, LONGEST_LINE, NEVER_SENT, check_header, header_end, unfold, written
from smtpkit.message.message import Prepared, prepare
from smtpkit.protocol.envelope import ForwardPath, Notify
from smtpkit.protocol.mail_data import LineEnds

if TYPE_CHECKING:
    from smtpkit.component.settings import Settings
    from smtpkit.component.table import Properties
    from smtpkit.message.message import Runner

IMPORTANCE = ("", "high", "normal", "low")  # RFC 2156 section 5.3.4
PRIORITY = ("", "normal", "urgent", "non-urgent")
SENSITIVITY = ("", "Personal", "Private", "Company-Confidential")

_FIELD = re.compile(r"([!-9;-~]{1,76})[ \t]*:")
_OPTION = re.compile(r"(NOTIFY|ORCPT)[ \t]*[= \t][ \t]*(\S+)(?:[ \t]+|\Z)", re.IGNORECASE)
_XTEXT = re.compile(r"\+([0-9A-F]{2})")


class HeaderField(NamedTuple):
    """A field of the header, as it is read."""

    name: str
    value: str


class Addressee(NamedTuple):
    """Somebody the mail is for; ``kind`` is 0 To, 1 Cc, 2 BCc; ``options`` is what they ask of DSN."""

    mailbox: Mailbox
    kind: int
    options: str = ""


class Mail(NamedTuple):
    """A mail ready to be sent, and how many octets its header has, with the empty line."""

    prepared: Prepared
    header_size: int


def addressees(table: "Properties") -> list[Addressee]:
    """Everybody, in the order To, Cc, BCc. Raises InvalidMail."""
    found = [
        Addressee(mailbox, kind)
        for kind, row in enumerate((type(table).send_to, type(table).cc, type(table).b_cc))
        for mailbox in parse_mailboxes(getattr(table, row.name), row.documented)
    ]
    for index, record in enumerate(table._recipients):  # noqa: SLF001  the table's own records
        mailbox = mailbox_of(record.address, f"MessageRecipientAddress[{index}]")
        if record.name:
            mailbox = replace(mailbox, display_name=record.name)
        found.append(Addressee(mailbox, record.kind, record.options))
    return sorted(found, key=lambda one: one.kind)


def header(table: "Properties", settings: "Settings") -> bytes:
    """The header as it would be sent now, without the empty line; nothing where neither From nor Message is set."""
    if table.message:
        return _mended(_header_of(_octets(table, settings)))
    return _header(table, settings) if table.from_ else b""


def header_fields(block: bytes) -> list[HeaderField]:
    """The fields of a header, their names as they are written."""
    found = []
    for line in unfold(block.decode("utf-8", "replace")).split("\r\n"):
        start = _FIELD.match(line)
        if start is not None:
            found.append(HeaderField(start[1], line[start.end() :].strip(" \t")))
    return found


async def compose(table: "Properties", settings: "Settings", run: "Runner") -> Mail:
    """The mail that the properties say. Raises ComponentError, InvalidMail."""
    if not table.from_:
        raise ComponentError(NO_SENDER, 'From is not set; it is the sender, such as "Ann <ann@example.com>"')
    people = addressees(table)
    if not people or not (settings.allow_empty_to or any(one.kind == 0 for one in people)):
        raise ComponentError(NO_RECIPIENT, "SendTo is not set; with AllowEmptyTo=True Cc or BCc suffice")
    if table.message:
        octets = _mended(_octets(table, settings))
        block = _header_of(octets)
        size = len(block)
        size += 2 if octets[size : size + 2] == b"\r\n" else 0
    else:
        block = _header(table, settings, people) + b"\r\n"
        octets, size = block + settings.encode(table.message_text), len(block)
    sender = table.return_path or mailbox_of(table.from_, "From").address
    prepared = await prepare(octets, sender, [one.mailbox.address for one in people], run=run)
    paths = tuple(_forward_paths(prepared.envelope.forward_paths, people, settings))
    envelope = replace(prepared.envelope, forward_paths=paths)
    return Mail(replace(prepared, envelope=envelope, item=prepared.message_id), size)  # events show no mail


def _octets(table: "Properties", settings: "Settings") -> bytes:
    """Message, in CodePage where it is a text."""
    return table.message if isinstance(table.message, bytes) else settings.encode(table.message)


def _mended(octets: bytes) -> bytes:
    """The same with line ends as they are sent."""
    ends = LineEnds()
    return ends.mend(octets) + ends.end()


def _header_of(message: bytes) -> bytes:
    """The header of Message, without the empty line. Raises InvalidMail where it would tell of blind copies."""
    block = message[: header_end(message, at_end=True)]
    for name, _ in header_of.fields(block):
        _check_told(name, "Message")
    return block


def _check_told(name: str, where: str) -> None:
    if name.lower() in NEVER_SENT:
        raise InvalidMail(f"{where}: a {name} field would tell of blind copies; name them in BCc")


def _header(table: "Properties", settings: "Settings", people: "list[Addressee] | None" = None) -> bytes:
    """The header block, checked."""
    length = settings.max_header_length
    how: dict[str, Any] = {
        "charset": settings.charset or "utf-8",
        "fold_at": min(length - 2, LONGEST_LINE) if length else LONGEST_LINE,
    }
    others = table.other_headers.replace("\r\n", "\n").removesuffix("\n")
    alone = others.startswith("\n") or table.other_headers in {"\r\n", "\n"}
    further = list(_further(others.removeprefix("\n"), how))
    names, lines = [], []
    for name, value in () if alone else _computed(table, people or addressees(table)):
        names.append(name)
        lines.append(written(name, value, **how))
    given = {name.lower() for name, _ in further}
    if not alone and "content-type" not in given and not table.message_text.isascii():
        charset = CODE_PAGES[settings.code_page]
        mime = {
            "MIME-Version": "1.0",
            "Content-Type": f'text/plain; charset="{charset}"',
            "Content-Transfer-Encoding": "8bit",
        }
        for name, value in mime.items():
            if name.lower() not in given:
                names.append(name)
                lines.append(written(name, value))
    block = b"".join([*lines, *(line for _, line in further)])
    check_header(block, [*names, *(name for name, _ in further)])
    return block


def _computed(table: "Properties", people: list[Addressee]) -> Iterator[tuple[str, str | Iterable[Mailbox]]]:
    """The fields that the properties say."""
    sender = mailbox_of(table.from_, "From")
    yield "From", [sender]
    if table.reply_to:
        yield "Reply-To", mailboxes_of(table.reply_to, "ReplyTo")
    for kind, name in enumerate(("To", "Cc")):
        if named := [one.mailbox for one in people if one.kind == kind]:
            yield name, named
    if table.subject:
        yield "Subject", table.subject
    if table.message_date:
        yield "Date", header_of.date() if table.message_date == "*" else table.message_date
    if table.message_id:
        fresh = header_of.message_id(sender.address.rpartition("@")[2])
        yield "Message-ID", fresh if table.message_id == "*" else table.message_id
    for name, words, chosen in (
        ("Importance", IMPORTANCE, table.importance),
        ("Priority", PRIORITY, table.priority),
        ("Sensitivity", SENSITIVITY, table.sensitivity),
    ):
        if chosen:
            yield name, words[chosen]
    for name, row in (
        ("Disposition-Notification-To", type(table).read_receipt_to),
        ("Return-Receipt-To", type(table).delivery_notification_to),
    ):
        if text := getattr(table, row.name):
            yield name, mailboxes_of(text, row.documented)


def _further(text: str, how: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    """Name and octets of each field of OtherHeaders: ASCII as it stands, the rest encoded. Raises InvalidMail."""
    fields: list[list[str]] = []
    for line in text.split("\n") if text else ():
        if line[:1] in {" ", "\t"} and fields and line.strip(" \t"):
            fields[-1].append(line)
        elif _FIELD.match(line):
            fields.append([line])
        else:
            raise InvalidMail(f"OtherHeaders: the line {line[:120]!r} is no header field; write each as Name: value")
    for lines in fields:
        name, _, value = "".join(lines).partition(":")
        name = name.rstrip(" \t")
        _check_told(name, "OtherHeaders")
        if all(map(str.isascii, lines)):
            yield name, "".join(f"{line}\r\n" for line in lines).encode()
        elif name.lower() in ADDRESS_FIELDS:
            yield name, written(name, parse_mailboxes(value.strip(" \t"), name), **how)
        else:
            yield name, written(name, value.strip(" \t"), **how)


def _forward_paths(
    paths: tuple[ForwardPath, ...], people: list[Addressee], settings: "Settings"
) -> Iterator[ForwardPath]:
    """The paths as the properties want them: whose refusal stops the mail, and what they ask of DSN."""
    stops = (settings.stop_on_to_errors, settings.stop_on_cc_errors, settings.stop_on_bcc_errors)
    named: dict[tuple[str, str], list[Addressee]] = {}
    for one in people:
        named.setdefault(identity(one.mailbox.address), []).append(one)
    for path in paths:
        same = named.get(identity(path.address), [])
        options = next((one.options for one in same if one.options), "")
        notify, original = _dsn(options)
        yield ForwardPath(
            path.address,
            required=any(stops[one.kind] for one in same),
            notify=notify,
            original=original or (path.address if notify else None),
        )


def _dsn(options: str) -> tuple[tuple[Notify, ...], str | None]:
    """What MessageRecipientOptions asks for. Raises InvalidMail."""
    notify: tuple[Notify, ...] = ()
    original, at = None, 0
    options = options.strip(" \t")
    while at < len(options):
        found = _OPTION.match(options, at)
        if found is None:
            raise InvalidMail(
                f"MessageRecipientOptions {options!r}: write NOTIFY=SUCCESS,FAILURE,DELAY or NOTIFY=NEVER, and perhaps "
                "ORCPT=rfc822;bob@example.com"
            )
        at = found.end()
        if found[1].upper() == "NOTIFY":
            notify = cast("tuple[Notify, ...]", tuple(found[2].upper().split(",")))
        else:
            kind, typed, text = found[2].rpartition(";")
            if typed and kind.lower() != "rfc822":
                raise InvalidMail(f"MessageRecipientOptions {options!r}: the type of ORCPT is rfc822")
            original = _XTEXT.sub(lambda code: chr(int(code[1], 16)), text)
    return notify, original
