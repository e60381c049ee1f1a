"""Messages of the standard library, flattened for the wire without changing them.

Rules: no part of it is trusted with addresses or with what may end a line: addresses never become encoded words, and
the octets pass ``check_header`` whichever Python made them. What was parsed and is ASCII goes out as it came.
"""

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from smtpkit.errors import InvalidMail
from smtpkit.message import header as fields
from smtpkit.message.address import parse_mailboxes
from smtpkit.message.header import ADDRESS_FIELDS, date, message_id
from smtpkit.message.source import Source, in_memory
from smtpkit.protocol.mail_data import MailData

if TYPE_CHECKING:
    from email.message import Message as StdlibMessage


def stdlib_source(message: "StdlibMessage", sender: str | None, *, strict: bool) -> Source:
    """An email.message.Message of either kind; where it has 8-bit parts it can be told in 7 bits too."""
    twin = _completed(message, sender)

    def in_seven_bits() -> MailData:
        try:
            return in_memory(_flatten(twin, "7bit"), strict=strict).mail_data
        except (ValueError, LookupError) as error:
            raise InvalidMail(
                f"message: a part in 8 bits does not say its charset, or one that nobody knows, so it has no form in 7 "
                f"({error})"
            ) from error

    header, mail_data = in_memory(_flatten(twin, "8bit"), strict=strict)
    return Source(header, replace(mail_data, seven_bit=in_seven_bits) if mail_data.eight_bit else mail_data)


def weight_of(message: "StdlibMessage") -> int:
    """About how many octets it has."""
    payloads = (part.get_payload() for part in message.walk() if not part.is_multipart())
    return sum(len(payload) for payload in payloads if isinstance(payload, str | bytes))


def _twin(message: "StdlibMessage") -> "StdlibMessage":
    """A copy whose fields and parts can be set without changing the original; flattening sets boundaries."""
    from copy import copy

    twin = copy(message)
    del twin["-"]  # deleting, whatever it is, gives it a list of fields of its own
    if message.is_multipart():
        twin.set_payload([_twin(part) for part in message.get_payload()])  # type: ignore[arg-type]  # a list of messages
    return twin


def _completed(message: "StdlibMessage", sender: str | None) -> "StdlibMessage":
    """A twin of the message with Date and Message-ID, its fields in the form in which they go out."""
    twin = _twin(message)
    items = list(message.raw_items())
    for name in {name.lower() for name, _ in items}:
        del twin[name]
    for name, value in items:
        twin.set_raw(name, _written(message, name, value))
    if "date" not in twin:
        twin.set_raw("Date", date())
    if "message-id" not in twin:
        twin.set_raw("Message-ID", message_id(_domain(message, sender)))
    return twin


def _flatten(twin: "StdlibMessage", cte_type: Literal["7bit", "8bit"]) -> bytes:
    """The octets. Raises InvalidMail unless the header has the fields of the message and no others."""
    from email.generator import BytesGenerator
    from email.policy import EmailPolicy

    for part in twin.walk():
        for name, value in part.raw_items():
            if re.search(r"[\r\n\0]", f"{name}:{fields.unfold(str(value))}"):
                raise InvalidMail(f"header field {name[:76]!r}: it holds a line end or NUL; remove it")
    policy = twin.policy.clone(linesep="\r\n", cte_type=cte_type)
    if isinstance(policy, EmailPolicy):  # what was parsed stays as it was folded
        policy = policy.clone(refold_source="none", utf8=False)
    buffer = io.BytesIO()
    BytesGenerator(buffer, mangle_from_=False, policy=policy).flatten(twin)
    octets = buffer.getvalue()
    header, _ = fields.split_header(octets)
    names = [name.lower() for name, _ in twin.raw_items()]
    encoding = "content-transfer-encoding"  # the one field that flattening may add
    if encoding not in names and any(name == encoding for name, _ in fields.fields(header)):
        names.append(encoding)
    fields.check_header(header, names)
    return octets


class _Written:
    """A field in its final form; each kind of the stdlib's policies asks it for that in its own way."""

    def __init__(self, name: str, octets: bytes) -> None:
        self.name = name
        self._text = octets.decode("ascii", "surrogateescape")

    def fold(self, *, policy: object) -> str:  # noqa: ARG002  EmailPolicy hands itself over
        """The whole field."""
        return self._text

    def encode(self, **_how: object) -> str:
        """What compat32 puts between the name and the line end."""
        return self._text[len(self.name) + 2 : -2]


def _written(message: "StdlibMessage", name: str, value: Any) -> Any:
    """The value in the form in which it goes out: what was parsed and is ASCII as it is, and the rest written by us.

    MIME's own fields are left to the stdlib. Addresses never become encoded words.
    """
    from email.errors import InvalidHeaderDefect

    parsed = isinstance(value, str) and not hasattr(value, "name")
    lower = name.lower()
    if lower == "mime-version" or lower.startswith("content-"):
        return message.policy.header_fetch_parse(name, value) if parsed and not value.isascii() else value
    text = str(value)
    if parsed and text.isascii():
        return value
    try:
        text = fields.unfold(text).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        raise InvalidMail(f"{name}: it holds a lone surrogate; remove it") from None
    if lower not in ADDRESS_FIELDS:
        return _Written(name, fields.field(name, text)) if isinstance(value, str) else value
    for defect in getattr(value, "defects", ()):
        if isinstance(defect, InvalidHeaderDefect):  # its text is no longer what was set, and the addresses not either
            raise InvalidMail(f"{name} {text!r}: no list of addresses ({defect}); write Ann <ann@example.com>")
    if text.isascii() and ";" in text:
        return value  # a group
    mailboxes = parse_mailboxes(text, name)
    return _Written(name, fields.field(name, mailboxes)) if mailboxes else value


def _domain(message: "StdlibMessage", sender: str | None) -> str:
    """The domain a Message-ID is made with: that of From, or of the sender."""
    for text in (str(message.get("from", "")), sender or ""):
        try:
            mailboxes = parse_mailboxes(fields.unfold(text))
        except InvalidMail:
            continue
        if mailboxes:
            return mailboxes[0].address.rpartition("@")[2]
    return "localhost"
