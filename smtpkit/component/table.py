"""The table: every documented property and event, a row each. What it does is in ``compose``, ``choices``, ``work``."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from smtpkit.component import notices
from smtpkit.component.errors import VALUE, ComponentError
from smtpkit.component.fields import (
    FLAG,
    LINES,
    OCTETS,
    SECRET,
    TEXT,
    Fact,
    Field,
    Hook,
    Indexed,
    Kind,
    Order,
    Row,
    Table,
    check_unconnected,
    choice,
    whole,
)

if TYPE_CHECKING:
    from smtpkit.component.settings import Settings
    from smtpkit.component.work import Work

FIREWALL_PORTS = {0: 0, 1: 80, 2: 1080, 3: 1080, 10: 1080}
_CANNOT_NOW = 108  # a firewall property, while connected
_FIREWALL = choice(none=0, tunnel=1, socks4=2, socks5=3, socks4a=10)
_MECHANISMS = choice(best=0, cram_md5=1, ntlm=2, apop=3, sasl_plain=4, digest_md5=5, kerberos=6, xoauth2=7)
_COUNT = whole(0, 1_000_000)


def _is_address(value: Any) -> str:
    from ipaddress import ip_address

    if TEXT.right(value) != "":
        ip_address(value)
    return str(value)


def _is_mechanism(value: Any) -> int:
    if _MECHANISMS.right(value) == 3:
        raise ComponentError(VALUE, "AuthMechanism: APOP is a login of POP3 and not of SMTP; 0 is the best there is")
    return int(value)


_MECHANISM = replace(_MECHANISMS, right=_is_mechanism)
_ADDRESS: Kind[str] = Kind("empty, or an IP address of this machine", _is_address, _is_address)


@dataclass(slots=True)
class Recipient:
    """A record of the MessageRecipient arrays."""

    address: str = ""
    name: str = ""
    kind: int = 0
    options: str = ""


class Properties(Table):
    """The values of the properties, and the handlers of the events."""

    def __init__(self) -> None:
        super().__init__()
        self._recipients: list[Recipient] = []
        self._work: Work
        self._settings: Settings

    def _check_change(self, row: Row[Any]) -> None:
        check_unconnected(row, connected=self._work.connected)

    def _obey(self, line: str) -> None:  # noqa: ARG002  it may be a secret
        raise AttributeError("a command is waited for: await set_command(…)")

    def _resize(self, count: int) -> None:
        del self._recipients[count:]
        self._recipients += [Recipient() for _ in range(count - len(self._recipients))]

    def _set_firewall_port(self, kind: int) -> None:
        self.firewall_port = FIREWALL_PORTS[kind]

    # The server, the session, the login

    allow_extensions = Field("AllowExtensions", FLAG, True, "Say EHLO; False: HELO, and no extension is used.")
    auth_mechanism = Field("AuthMechanism", _MECHANISM, 0, "How to log in, where User is set.")
    user = Field("User", TEXT, "", "Who logs in; empty: nobody.")
    password = Field("Password", SECRET, "", "The user's password.")
    mail_server = Field(
        "MailServer", TEXT, "", "The server's name or address; ``*name`` lets a SOCKS firewall resolve it.", fixed=101
    )
    mail_port = Field("MailPort", whole(1, 65535), 25, "The server's port; on 465 TLS begins at once.", fixed=100)
    connected = Fact("Connected", FLAG, False, "Is there a session?", lambda self: self._work.connected)
    idle = Fact("Idle", FLAG, True, "Is no method running?", lambda self: self._work.idle)
    last_reply = Fact(
        "LastReply",
        LINES,
        "",
        "The server's last reply, its lines with their code.",
        lambda self: self._work.last_reply,
    )
    command = Order("Command", SECRET, "", "Setting it sends the line and waits for the reply, which LastReply has.")
    local_host = Field(
        "LocalHost",
        _ADDRESS,
        "",
        "The address that connections come from. Unset the host's name is read; once connected the address in use.",
        fixed=107,
        setting=True,
        reads=lambda self, kept: self._work.local_end[0] or kept or self._work.host_name,
    )
    timeout = Field("Timeout", whole(0), 60, "Seconds without a reply or a block written, until it fails; 0: no limit.")

    # The firewall

    firewall_auto_detect = Field(
        "FirewallAutoDetect",
        FLAG,
        False,
        "Without a FirewallType: go by the proxy that the environment names.",
        fixed=_CANNOT_NOW,
        setting=True,
    )
    firewall_type = Field(
        "FirewallType",
        _FIREWALL,
        0,
        "How the firewall is spoken to; setting it sets FirewallPort.",
        fixed=_CANNOT_NOW,
        setting=True,
        then=lambda self, kind: self._set_firewall_port(kind),
    )
    firewall_host = Field("FirewallHost", TEXT, "", "The firewall's name or address.", fixed=_CANNOT_NOW, setting=True)
    firewall_port = Field("FirewallPort", whole(0, 65535), 0, "The firewall's port.", fixed=_CANNOT_NOW, setting=True)
    firewall_user = Field("FirewallUser", TEXT, "", "Who logs in at the firewall.", fixed=_CANNOT_NOW, setting=True)
    firewall_password = Field("FirewallPassword", SECRET, "", "That user's password.", fixed=_CANNOT_NOW, setting=True)

    # The message

    from_ = Field("From", TEXT, "", "Who the mail is from: ann@example.com, or ``Ann <ann@example.com>``.")
    return_path = Field(
        "ReturnPath", TEXT, "", "Where notifications go, if not to From; ``<>``: nowhere. No field.", setting=True
    )
    send_to = Field("SendTo", TEXT, "", "Who it is to: addresses with commas.")
    cc = Field("Cc", TEXT, "", "Who gets a copy, for all to see.")
    b_cc = Field("BCc", TEXT, "", "Who gets a copy that the header does not tell of.")
    reply_to = Field("ReplyTo", TEXT, "", "Where an answer is to go.")
    subject = Field("Subject", TEXT, "", "What it is about.")
    message_date = Field("MessageDate", TEXT, "*", "The Date field: ``*`` the time of sending, empty none.")
    message_id = Field("MessageId", TEXT, "*", "The Message-ID field: ``*`` a fresh one for each mail, empty none.")
    message_text = Field("MessageText", LINES, "", "The body, in CodePage.")
    message = Field("Message", OCTETS, b"", "The whole mail with its header, instead of what the other rows make.")
    other_headers = Field(
        "OtherHeaders",
        LINES,
        "",
        "Further header lines. Where an empty line leads them, they are the whole header.",
        setting=True,
    )
    message_headers_string = Fact(
        "MessageHeadersString", LINES, "", "The header as it would be sent now.", lambda self: self._work.header
    )
    message_header_count = Fact(
        "MessageHeaderCount", _COUNT, 0, "How many fields the header has.", lambda self: len(self._work.header_fields)
    )
    message_header_field = Indexed(
        "MessageHeaderField",
        TEXT,
        "",
        "The name of each field of the header.",
        records=lambda self: self._work.header_fields,
        attribute="name",
        writable=False,
    )
    message_header_value = Indexed(
        "MessageHeaderValue",
        TEXT,
        "",
        "The text of each field of the header, unfolded.",
        records=lambda self: self._work.header_fields,
        attribute="value",
        writable=False,
    )
    importance = Field("Importance", choice(unspecified=0, high=1, normal=2, low=3), 0, "The Importance field.")
    priority = Field("Priority", choice(unspecified=0, normal=1, urgent=2, non_urgent=3), 0, "The Priority field.")
    sensitivity = Field(
        "Sensitivity",
        choice(unspecified=0, personal=1, private=2, company_confidential=3),
        0,
        "The Sensitivity field.",
    )
    read_receipt_to = Field(
        "ReadReceiptTo", TEXT, "", "The Disposition-Notification-To field: who hears that it was read."
    )
    delivery_notification_to = Field(
        "DeliveryNotificationTo", TEXT, "", "The Return-Receipt-To field: who hears that it arrived."
    )

    # Recipients one by one, besides SendTo, Cc and BCc

    message_recipient_count = Field(
        "MessageRecipientCount",
        _COUNT,
        0,
        "How many recipients the arrays hold; setting it makes or drops records at their end.",
        then=lambda self, count: self._resize(count),
    )
    message_recipient_address = Indexed(
        "MessageRecipientAddress",
        TEXT,
        "",
        "The address of each.",
        records=lambda self: self._recipients,
        attribute="address",
    )
    message_recipient_name = Indexed(
        "MessageRecipientName",
        TEXT,
        "",
        "The display name of each.",
        records=lambda self: self._recipients,
        attribute="name",
    )
    message_recipient_options = Indexed(
        "MessageRecipientOptions",
        TEXT,
        "",
        "What each asks of delivery notifications: NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob@example.com",
        records=lambda self: self._recipients,
        attribute="options",
    )
    message_recipient_type = Indexed(
        "MessageRecipientType",
        choice(to=0, cc=1, bcc=2),
        0,
        "What each is.",
        records=lambda self: self._recipients,
        attribute="kind",
    )

    # The events

    on_connection_status = Hook("ConnectionStatus", notices.ConnectionStatus, "A connection or TLS begins or ends.")
    on_end_transfer = Hook("EndTransfer", notices.EndTransfer, "The body has gone out.")
    on_error = Hook("Error", notices.Error, "Something went wrong that did not stop the method.")
    on_expand = Hook("Expand", notices.Expand, "A member of the list that expand asked for.")
    on_pi_trail = Hook("PITrail", notices.PITrail, "A line of the dialogue, secrets masked, without the mail itself.")
    on_start_transfer = Hook("StartTransfer", notices.StartTransfer, "The body begins to go out.")
    on_transfer = Hook("Transfer", notices.Transfer, "A piece of the body has gone out.")


# What reset_headers clears: all that makes a header or an envelope, and nothing of the body or the session.
HEADER_ROWS = (
    *("From", "ReturnPath", "SendTo", "Cc", "BCc", "ReplyTo", "Subject", "MessageDate", "MessageId", "OtherHeaders"),
    *("Importance", "Priority", "Sensitivity", "ReadReceiptTo", "DeliveryNotificationTo", "MessageRecipientCount"),
)
