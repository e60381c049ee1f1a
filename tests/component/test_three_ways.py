"""What each row does on the wire, in the three ways: one table, and no documented row that is in no test of it."""

import json
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smtpkit import SMTP, ComponentError
from smtpkit.component.fields import Hook, methods
from smtpkit.testing import Script, Server
from tests.component.ways import WAYS, call, make, run
from tests.relay import Relay

HERE = Path(__file__).parent
REFUSING = Script(replies={"RCPT:no@example.com": "550 5.1.1 no"})
LOGIN = Script(users={"ann": "s3cret"}, mechanisms=("PLAIN",))


def field(name: str) -> Callable[[Server], object]:
    """The field of the mail that arrived."""
    return lambda server: server.received[0].message()[name]


def body(server: Server) -> bytes:
    """What stands behind the empty line."""
    return server.received[0].octets.partition(b"\r\n\r\n")[2]


def paths(server: Server) -> object:
    """Whom it went to."""
    return server.received[0].paths


def line(verb: bytes) -> Callable[[Server], object]:
    """The last line that began so."""
    return lambda server: [line for line in server.sessions[-1].said("C") if line.startswith(verb)][-1]


# What is set, what is seen, and what it is then; the server is a plain one if none is named.
ROWS: list[tuple[dict[str, Any], Callable[[Server], object], object, Script]] = [
    ({"AllowExtensions": False}, line(b"HELO"), b"HELO [127.0.0.1]", Script()),
    ({"User": "ann", "Password": "s3cret"}, lambda server: server.received[0].user, "ann", LOGIN),
    ({"From": "Zoë <zoe@example.com>"}, field("From"), "Zoë <zoe@example.com>", Script()),
    ({"From": "Zoë <zoe@example.com>"}, lambda server: server.received[0].reverse_path, "zoe@example.com", Script()),
    ({"ReturnPath": "b@example.com"}, lambda server: server.received[0].reverse_path, "b@example.com", Script()),
    ({"SendTo": "a@example.com, B <b@example.com>"}, field("To"), "a@example.com, B <b@example.com>", Script()),
    ({"SendTo": "a@example.com, B <b@example.com>"}, paths, ("a@example.com", "b@example.com"), Script()),
    ({"SendTo": "all: a@example.com, b@example.com;"}, paths, ("a@example.com", "b@example.com"), Script()),
    ({"Cc": "a@example.com"}, field("Cc"), "a@example.com", Script()),
    ({"Cc": "a@example.com"}, paths, ("bob@example.com", "a@example.com"), Script()),
    ({"BCc": "a@example.com"}, paths, ("bob@example.com", "a@example.com"), Script()),
    ({"BCc": "zed@example.com"}, lambda server: b"zed@" in server.received[0].octets, False, Script()),
    ({"ReplyTo": "a@example.com"}, field("Reply-To"), "a@example.com", Script()),
    ({"Subject": "Grüße"}, field("Subject"), "Grüße", Script()),
    ({"MessageDate": "Thu, 1 Jan 2026 00:00:00 +0100"}, field("Date"), "Thu, 01 Jan 2026 00:00:00 +0100", Script()),
    ({"MessageDate": ""}, field("Date"), None, Script()),
    ({"MessageId": "<x@example.com>"}, field("Message-ID"), "<x@example.com>", Script()),
    ({"MessageId": ""}, field("Message-ID"), None, Script()),
    ({"MessageText": ".dot\n..\nno end"}, body, b".dot\r\n..\r\nno end\r\n", Script()),
    ({"Message": b"X: 1\n\n.dot"}, lambda server: server.received[0].octets, b"X: 1\r\n\r\n.dot\r\n", Script()),
    ({"OtherHeaders": "X-One: 1\r\n"}, field("X-One"), "1", Script()),
    ({"OtherHeaders": "\r\nX-One: 1"}, lambda server: server.received[0].message().keys(), ["X-One"], Script()),
    ({"Importance": 1}, field("Importance"), "high", Script()),
    ({"Priority": 2}, field("Priority"), "urgent", Script()),
    ({"Sensitivity": 3}, field("Sensitivity"), "Company-Confidential", Script()),
    ({"ReadReceiptTo": "a@example.com"}, field("Disposition-Notification-To"), "a@example.com", Script()),
    ({"DeliveryNotificationTo": "a@example.com"}, field("Return-Receipt-To"), "a@example.com", Script()),
    ({"MessageRecipientAddress": "a@example.com"}, paths, ("bob@example.com", "a@example.com"), Script()),
    ({"MessageRecipientName": "A, B"}, field("To"), 'bob@example.com, "A, B" <cy@example.com>', Script()),
    ({"MessageRecipientType": 1}, field("Cc"), "cy@example.com", Script()),
    ({"MessageRecipientType": 2}, lambda server: b"cy@" in server.received[0].octets, False, Script()),
    (
        {"MessageRecipientOptions": "NOTIFY SUCCESS,DELAY"},
        line(b"RCPT"),
        b"RCPT TO:<cy@example.com> NOTIFY=SUCCESS,DELAY ORCPT=rfc822;cy@example.com",
        Script(),
    ),
    ({"MessageRecipientCount": 0}, paths, ("bob@example.com",), Script()),
    ({"SendTo": "", "Cc": "a@example.com", "AllowEmptyTo": True}, paths, ("a@example.com",), Script()),
    (
        {"User": "ann", "AuthMechanism": 7, "AuthorizationIdentity": "Bearer t0ken"},
        lambda server: server.received[0].user,
        "ann",
        Script(tokens={"ann": "t0ken"}),
    ),
    (
        {"Subject": "Grüße", "Charset": "ISO-8859-1"},
        lambda server: b"=?ISO-8859-1?" in server.received[0].octets,
        True,
        Script(),
    ),
    ({"Hello": "mail.example.com"}, line(b"EHLO"), b"EHLO mail.example.com", Script()),
    (
        {"MaxHeaderLength": 40, "Subject": "word " * 30 + "end"},
        lambda server: max(map(len, server.received[0].octets.split(b"Subject")[1].split(b"Date")[0].split(b"\r\n"))),
        35,
        Script(),
    ),
    ({"MessageText": "ü\r\n", "CodePage": 1252}, body, b"\xfc\r\n", Script()),
    ({"Message": "X: 1\r\n\r\nü\r\n", "CodePage": 1252}, body, b"\xfc\r\n", Script()),
    ({"SendTo": "bob@example.com, no@example.com", "StopOnToErrors": False}, paths, ("bob@example.com",), REFUSING),
    ({"Cc": "no@example.com", "StopOnCcErrors": False}, paths, ("bob@example.com",), REFUSING),
    ({"RecordLength": 3}, paths, ("bob@example.com",), Script()),
    ({"TcpNoDelay": True, "UseIPv6": False, "Linger": True}, paths, ("bob@example.com",), Script()),
]
STOPS = [("SendTo", "StopOnToErrors"), ("Cc", "StopOnCcErrors"), ("BCc", "StopOnBccErrors")]


def put(smtp: Any, name: str, value: object) -> None:
    """Set a property or a setting by its documented name."""
    if name.startswith("MessageRecipient") and name != "MessageRecipientCount":
        getattr(smtp, name)[0] = value
    elif hasattr(SMTP, name):
        setattr(smtp, name, value)
    else:
        smtp.config(f"{name}={value}")


@WAYS
@pytest.mark.parametrize("row", ROWS, ids=[", ".join(row[0]) for row in ROWS])
def test_on_the_wire(way: str, row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is set is seen by the server, by whatever way it is sent."""
    values, look, wanted, script = row
    monkeypatch.setattr(socket, "gethostname", lambda: "host")
    with Server(script) as server:

        async def scenario() -> None:
            smtp = make(way, server, allow_plaintext_auth=True)
            if any(name.startswith("MessageRecipient") for name in values):
                smtp.message_recipient_count = 1
                smtp.message_recipient_address[0] = "cy@example.com"
            for name, value in values.items():
                put(smtp, name, value)
            assert (await call(smtp.send)).accepted

        run(way, scenario)
        assert look(server) == wanted
        assert server.sessions[0].errors == []


@WAYS
@pytest.mark.parametrize(("who", "setting"), STOPS)
def test_who_stops_the_mail(way: str, who: str, setting: str) -> None:
    """Where it is True one refusal is enough: nothing is sent, RSET leads the next mail of the connection."""
    with Server(REFUSING) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            put(smtp, who, "yes@example.com, no@example.com")
            smtp.config(f"{setting}=True")
            await call(smtp.connect)
            with pytest.raises(ComponentError, match="no@example") as caught:
                await call(smtp.send)
            assert caught.value.code == 161
            put(smtp, who, "yes@example.com")
            await call(smtp.send)
            await call(smtp.disconnect)

        run(way, scenario)
        (mail,) = server.received
        assert "no@example.com" not in mail.paths
        assert server.sessions[0].said("C").count(b"DATA") == 1
        assert server.sessions[0].errors == []


@WAYS
def test_what_can_only_be_read(way: str) -> None:
    """Connected, Idle, LastReply and the header are those of the moment, before, in and after a method."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.message_date = smtp.message_id = ""
            seen: list[tuple[bool, bool, str]] = []
            smtp.on_pi_trail = lambda e: seen.append((smtp.connected, smtp.idle, smtp.last_reply[:3]))
            assert (smtp.connected, smtp.idle, smtp.last_reply) == (False, True, "")
            await call(smtp.connect)
            assert (smtp.connected, smtp.idle, smtp.last_reply[:4]) == (True, True, "250-")
            await call(smtp.send)
            assert smtp.last_reply.startswith("250 ")
            await call(smtp.disconnect)
            assert (smtp.connected, smtp.idle, smtp.last_reply) == (False, True, "221 2.0.0 Bye")
            assert {idle for _, idle, _ in seen} == {False}
            assert smtp.message_headers_string == "From: Ann <ann@example.com>\r\nTo: bob@example.com\r\n"
            assert smtp.message_header_count == len(smtp.message_header_field) == 2
            assert dict(zip(smtp.message_header_field, smtp.message_header_value, strict=True)) == {
                "From": "Ann <ann@example.com>",
                "To": "bob@example.com",
            }

        run(way, scenario)


@WAYS
@pytest.mark.parametrize(("kind", "number"), [("http", 1), ("socks5", 3)])
def test_the_login_at_a_firewall(way: str, kind: str, number: int) -> None:
    """FirewallUser and FirewallPassword are those that the firewall gets; a wrong one is error 118, not shown."""
    with Server() as server, Relay(kind, server.port, login=("ann", "s3cret")) as relay:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.firewall_type, smtp.firewall_host, smtp.firewall_port = number, "127.0.0.1", relay.port
            smtp.firewall_user, smtp.firewall_password = "ann", "s3cret"
            if number == 1:
                smtp.config("FirewallData=X-One: 1")
            await call(smtp.send)
            smtp.firewall_password = "wr0ng"
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            assert caught.value.code == 118
            assert "wr0ng" not in f"{caught.value!r} {caught.value.__cause__!r}"

        run(way, scenario)
        assert (b"X-One: 1\r\n" in relay.requests[0]) == (number == 1)
        assert len(server.received) == 1


@WAYS
def test_the_firewall_of_the_system(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """FirewallAutoDetect goes by the environment, unless there is a FirewallType; without it nobody looks there."""
    with Server() as server, Relay("socks5", server.port) as relay, Relay("http", server.port) as other:
        for name in ("no_proxy", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("all_proxy", f"socks5h://127.0.0.1:{relay.port}")

        async def scenario() -> None:
            smtp = make(way, server)
            await call(smtp.send)
            smtp.mail_server, smtp.firewall_auto_detect = "mail.invalid", True
            await call(smtp.send)
            smtp.firewall_type, smtp.firewall_host, smtp.firewall_port = 1, "127.0.0.1", other.port
            await call(smtp.send)

        run(way, scenario)
        assert relay.asked == other.asked == [("mail.invalid", server.port)]
        assert len(server.received) == 3


@WAYS
def test_headers_are_reset(way: str) -> None:
    """After reset_headers the next mail has nothing of the last but its body, and goes to nobody of before."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.reply_to, smtp.cc, smtp.b_cc, smtp.importance = "a@example.com", "c@example.com", "d@example.com", 1
            smtp.return_path, smtp.other_headers, smtp.message_recipient_count = "r@example.com", "X: 1", 1
            smtp.message_recipient_address[0] = "e@example.com"
            smtp.message_date = smtp.message_id = ""
            await call(smtp.send)
            smtp.reset_headers()
            smtp.from_, smtp.send_to = "f@example.com", "t@example.com"
            await call(smtp.send)

        run(way, scenario)
        first, second = server.received
        assert len(first.paths) == 4
        assert (second.reverse_path, second.paths) == ("f@example.com", ("t@example.com",))
        assert second.message().keys() == ["From", "To", "Date", "Message-ID"]
        assert body(server) == second.octets.partition(b"\r\n\r\n")[2] == b"Hello\r\n"


def test_no_row_is_without_a_test() -> None:
    """Each documented name stands in a test of this directory that runs in the three ways, by one of its spellings."""
    blocks = []
    for path in HERE.glob("test_*.py"):
        parts = re.split(r"\n(?=@|def |async def )", path.read_text(encoding="utf-8"))
        joined = ""
        for part in parts:
            joined += part
            if not part.startswith("@"):
                blocks.append(joined)
                joined = ""
    threefold = "\n".join(block for block in blocks if "WAYS" in block or "ROWS: " in block)
    reference = json.loads((HERE / "reference.json").read_text(encoding="utf-8"))
    spellings: dict[str, tuple[str, ...]] = {
        row.documented: (row.documented, row.name) for row in SMTP.rows() if not isinstance(row, Hook)
    }
    spellings |= {row.documented: (row.documented,) for row in SMTP.settings() if row.documented not in spellings}
    hooks: dict[str, tuple[str, ...]] = {row.documented: (row.name,) for row in SMTP.rows() if isinstance(row, Hook)}
    verbs: dict[str, tuple[str, ...]] = {each.__dict__["documented"]: (each.__name__,) for each in methods(SMTP)}
    found = {"properties": spellings, "settings": spellings, "events": hooks, "methods": verbs}
    for group, names in reference.items():
        for name in names:
            assert any(re.search(rf"\b{word}\b", threefold) for word in found[group][name]), name
