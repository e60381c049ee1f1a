"""The fifteen things about the documented class that are easily missed, one test or more each, in that order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smtpkit import SMTP, ComponentError
from smtpkit.testing import Script, Server
from smtpkit.transport.blocking_stream import BlockingStream


@pytest.fixture
def server() -> Iterator[Server]:
    """A good modern server."""
    with Server() as running:
        yield running


def ready(server: Server, **properties: Any) -> SMTP:
    """A component that could send to that server."""
    smtp = SMTP()
    smtp.mail_server, smtp.mail_port = server.host, server.port
    smtp.from_, smtp.send_to, smtp.message_text = "Ann <ann@example.com>", "bob@example.com", "Hello\r\n"
    for name, value in properties.items():
        setattr(smtp, name, value)
    return smtp


def verbs(server: Server, session: int = 0) -> list[str]:
    """The verbs of a session, in order."""
    return [line.split()[0].decode() for line in server.sessions[session].said("C")]


def header(server: Server, mail: int = -1) -> bytes:
    """The header of a mail that arrived."""
    return server.received[mail].octets.partition(b"\r\n\r\n")[0] + b"\r\n"


def test_01_send_connects_only_if_it_must(server: Server) -> None:
    """Unconnected it connects and disconnects by itself; connected it leaves the connection open."""
    smtp = ready(server)
    smtp.send()
    assert not smtp.connected
    assert verbs(server)[-1] == "QUIT"
    smtp.connect()
    smtp.send()
    smtp.send()
    assert smtp.connected
    assert len(server.sessions) == 2
    assert verbs(server, 1) == ["EHLO", "MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA"]
    smtp.disconnect()
    smtp.disconnect()
    assert verbs(server, 1)[-1] == "QUIT"


def test_02_other_headers_replace_or_follow(server: Server) -> None:
    """They follow the computed fields; where an empty line leads them, they are the whole header."""
    smtp = ready(server, subject="Hi", other_headers="X-One: 1\r\nX-Two: a\r\n b\r\n")
    smtp.send()
    assert header(server).endswith(b"X-One: 1\r\nX-Two: a\r\n b\r\n")
    assert b"Subject: Hi\r\n" in header(server)
    smtp.other_headers = "\r\nX-One: 1\r\n"
    smtp.send()
    assert server.received[-1].octets == b"X-One: 1\r\n\r\nHello\r\n"
    for wrong in ("X-One: 1\r\n\r\nX-Two: 2", "no field", "Bcc: eve@example.com", "X: 1\r\nbcc : e@example.com"):
        smtp.other_headers = wrong
        with pytest.raises(ComponentError, match="OtherHeaders"):
            smtp.send()
    assert len(server.received) == 2


def test_03_blind_copies_are_in_no_header(server: Server, tmp_path: Path) -> None:
    """BCc gets its mail and nobody reads of it: not in the header, its text, a queued mail, nor from the arrays."""
    smtp = ready(server, b_cc="dee@example.com", message_recipient_count=1)
    smtp.message_recipient_address[0], smtp.message_recipient_type[0] = "eve@example.com", 2
    smtp.send()
    assert server.received[0].paths == ("bob@example.com", "dee@example.com", "eve@example.com")
    queued = Path(smtp.queue(str(_private(tmp_path)))).read_bytes()
    for octets in (server.received[0].octets, smtp.message_headers_string.encode(), queued.split(b"\r\n\r\n", 1)[1]):
        assert b"bob" in octets
        assert b"dee@" not in octets
        assert b"eve@" not in octets
        assert b"\nbcc" not in octets.lower()


def _private(path: Path) -> Path:
    path.chmod(0o700)
    return path


def test_04_who_is_refused_stops_the_mail_or_not() -> None:
    """A refused To or Cc stops the mail before DATA, a refused BCc is an Error event; the session goes on."""
    script = Script(replies={"RCPT:no@example.com": "550 5.1.1 no"})
    with Server(script) as server:
        smtp = ready(server)
        errors: list[tuple[int, str]] = []
        smtp.on_error = lambda e: errors.append((e.error_code, e.description))
        smtp.connect()
        for name in ("send_to", "cc"):
            setattr(smtp, name, "yes@example.com, no@example.com")
            with pytest.raises(ComponentError, match="no@example") as caught:
                smtp.send()
            assert caught.value.code == 161
            assert caught.value.reply is not None
            assert caught.value.reply.code == 550
            setattr(smtp, name, "bob@example.com")
        assert not server.received
        assert "DATA" not in verbs(server)
        smtp.b_cc = "no@example.com"
        smtp.send()
        assert server.received[0].paths == ("bob@example.com",)
        assert errors == [(161, "RCPT <no@example.com>: 550 5.1.1 no")]
        smtp.config("StopOnBccErrors=True")
        with pytest.raises(ComponentError, match="no@example"):
            smtp.send()
        smtp.b_cc = ""
        smtp.config("StopOnToErrors=False")
        smtp.config("StopOnCcErrors=False")
        smtp.send_to, smtp.cc = "bob@example.com, no@example.com", "no@example.com"
        smtp.send()
        assert len(server.received) == 2
        assert len(errors) == 2
        smtp.disconnect()
        assert not server.sessions[0].errors


def test_05_star_is_fresh_and_empty_is_none(server: Server) -> None:
    """``*`` stays ``*`` and gives each mail its own date and id; empty gives no field; else the text is as given."""
    smtp = ready(server)
    smtp.send()
    smtp.send()
    ids = [mail.message()["Message-ID"] for mail in server.received]
    assert len(set(ids)) == 2
    assert all(each.endswith("@example.com>") for each in ids)
    assert all(mail.message()["Date"] for mail in server.received)
    assert (smtp.message_date, smtp.message_id) == ("*", "*")
    smtp.message_date = smtp.message_id = ""
    smtp.send()
    assert header(server) == b"From: Ann <ann@example.com>\r\nTo: bob@example.com\r\n"
    smtp.message_date, smtp.message_id = "Thu, 1 Jan 2026 00:00:00 +0100", "<x@example.com>"
    smtp.send()
    assert header(server).endswith(b"Date: Thu, 1 Jan 2026 00:00:00 +0100\r\nMessage-ID: <x@example.com>\r\n")


@pytest.mark.parametrize("text", ["NOTIFY SUCCESS,FAILURE,DELAY", "NOTIFY=SUCCESS,FAILURE,DELAY", "notify = never"])
def test_06_recipient_options_take_a_space(server: Server, text: str) -> None:
    """``NOTIFY SUCCESS`` as documented and ``NOTIFY=SUCCESS`` are the same, and ``=`` is what the server sees."""
    smtp = ready(server, send_to="", message_recipient_count=1)
    smtp.message_recipient_address[0] = "bob@example.com"
    smtp.message_recipient_options[0] = f"{text} ORCPT=rfc822;rob+2B@example.org"
    smtp.send()
    (line,) = [line for line in server.sessions[0].said("C") if line.startswith(b"RCPT")]
    wanted = text.replace("=", " ").split()[-1].upper()
    assert line.decode() == f"RCPT TO:<bob@example.com> NOTIFY={wanted} ORCPT=rfc822;rob+2B@example.org"
    smtp.message_recipient_options[0] = "NOTIFY=SUCCESS X=Y"
    with pytest.raises(ComponentError, match="MessageRecipientOptions"):
        smtp.send()


def test_07_texts_leave_the_arrays_and_nobody_is_told_twice(server: Server) -> None:
    """SendTo does not clear the arrays; who stands in both has one RCPT, domains being the same in either case."""
    smtp = ready(server, message_recipient_count=2)
    smtp.message_recipient_address[0], smtp.message_recipient_name[0] = "bob@EXAMPLE.com", "Bob"
    smtp.message_recipient_address[1], smtp.message_recipient_type[1] = "cy@example.com", 1
    smtp.send_to = "bob@example.com"
    smtp.send()
    assert server.received[0].paths == ("bob@example.com", "cy@example.com")
    assert server.received[0].message()["Cc"] == "cy@example.com"
    assert smtp.message_recipient_count == 2


def test_08_the_body_alone_is_counted(server: Server) -> None:
    """Transfer counts octets of the body, to its last; a mail without one has none of the three events."""
    smtp = ready(server, message_text="x" * 70 + "\r\n" + "y" * 70)
    told: list[Any] = []
    smtp.on_start_transfer = lambda e: told.append(("start", e.direction))
    smtp.on_transfer = lambda e: told.append((e.direction, e.bytes_transferred, e.percent_done))
    smtp.on_end_transfer = lambda e: told.append(("end", e.direction))
    smtp.send()
    assert told == [("start", 0), (0, 144, 100), ("end", 0)]
    told.clear()
    smtp.message_text = ""
    smtp.send()
    assert told == []


def test_09_the_trail_has_no_secret_and_no_mail() -> None:
    """PITrail has each line of both sides and remarks of ours, and neither the password, a field nor the body."""
    script = Script(users={"ann": "s3cret"}, mechanisms=("PLAIN", "LOGIN"))
    with Server(script) as server:
        smtp = SMTP(allow_plaintext_auth=True)
        smtp.mail_server, smtp.mail_port = server.host, server.port
        smtp.from_, smtp.send_to = "ann@example.com", "bob@example.com"
        smtp.user, smtp.password = "ann", "s3cret"
        smtp.subject, smtp.message_text = "the subject", "the body"
        trail: list[tuple[int, str]] = []
        smtp.on_pi_trail = lambda e: trail.append((e.direction, repr(e)))
        smtp.send()
        assert {direction for direction, _ in trail} == {0, 1, 2}
        shown = "".join(text for _, text in trail)
        assert "MAIL FROM" in shown
        for hidden in ("s3cret", "AGFubgBzM2NyZXQ=", "the subject", "the body", "Subject"):
            assert hidden not in shown
        assert "s3cret" not in repr(smtp)


def test_10_timeout_nought_is_no_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 is no limit, and not "at once"; a number is of each wait by itself, with AbsoluteTimeout of them all."""
    deadlines: list[float | None] = []
    receive = BlockingStream.receive

    async def noting(stream: BlockingStream) -> bytes:
        deadlines.append(stream.deadline)
        return await receive(stream)

    monkeypatch.setattr(BlockingStream, "receive", noting)
    smtp = ready(server, timeout=0)

    def waits() -> list[float | None]:
        deadlines.clear()
        smtp.send()
        return deadlines[:-1]  # QUIT has a limit of its own

    assert set(waits()) == {None}
    smtp.timeout = 60
    assert len(set(waits())) > 2
    smtp.config("AbsoluteTimeout=True")
    assert len(set(waits())) == 1
    smtp.config("ConnectionTimeout=30")
    connecting, *_, last = waits()
    assert connecting != last


def test_11_helo_where_ehlo_is_refused() -> None:
    """HELO follows on the same connection, with the same name, which Hello says."""
    with Server(Script(replies={"EHLO": "502 5.5.1 what?"})) as server:
        smtp = ready(server)
        smtp.config("Hello=mail.example.com")
        smtp.send()
        assert server.sessions[0].said("C")[:2] == [b"EHLO mail.example.com", b"HELO mail.example.com"]
        smtp.allow_extensions = False
        smtp.send()
        assert server.sessions[1].said("C")[0] == b"HELO mail.example.com"
        assert len(server.sessions) == 2


def test_12_config_grammar() -> None:
    """The first ``=`` splits, names are in any case, blanks mean nothing, and a property's setting is the property."""
    smtp = SMTP()
    assert smtp.config(" authorizationIDENTITY = Bearer a=b= ") == ""
    assert smtp.config("AuthorizationIdentity") == "Bearer a=b="
    for text, value in (("yes", "True"), ("0", "False"), ("TRUE", "True"), ("no", "False"), ("1", "True")):
        smtp.config(f"KeepQueue={text}")
        assert smtp.config("keepqueue") == value
    with pytest.raises(ComponentError, match="KeepQueue must be True or False, not 'perhaps'"):
        smtp.config("KeepQueue=perhaps")
    with pytest.raises(ComponentError, match="MaxLineLength must be"):
        smtp.config("MaxLineLength=255")
    smtp.config("ReturnPath=bounce@example.com")
    assert smtp.return_path == "bounce@example.com"
    smtp.firewall_type = 3
    assert (smtp.config("FirewallType"), smtp.config("FirewallPort")) == ("3", "1080")
    smtp.config("OtherHeaders=\r\nX: 1")
    assert smtp.other_headers == "\r\nX: 1"


def test_13_the_queue(server: Server, tmp_path: Path) -> None:
    """Queue needs a directory that is there and returns the file's name; ProcessQueue deletes, keeps, or sets aside."""
    directory = _private(tmp_path)
    smtp = ready(server)
    with pytest.raises(ComponentError) as caught:
        smtp.queue(str(tmp_path / "nothing"))
    assert not (tmp_path / "nothing").exists()
    assert caught.value.code == 302
    path = Path(smtp.queue(str(directory)))
    assert path.suffix == ".queued"
    assert path.parent == directory
    smtp.process_queue(str(directory))
    assert not list(directory.iterdir())
    assert len(server.received) == 1
    smtp.config("KeepQueue=True")
    smtp.queue(str(directory))
    smtp.process_queue(str(directory))
    smtp.process_queue(str(directory))
    assert [each.suffix for each in directory.iterdir()] == [".sent"]
    assert len(server.received) == 2


def test_14_numbers_that_mislead(server: Server) -> None:
    """Importance 1 is high, Priority 1 is normal and its field is Priority; APOP is no login of SMTP."""
    smtp = ready(server, importance=1, priority=2, sensitivity=3)
    smtp.send()
    message = server.received[0].message()
    assert (message["Importance"], message["Priority"], message["Sensitivity"]) == (
        *("high", "urgent", "Company-Confidential"),
    )
    assert message["X-Priority"] is None
    smtp.importance, smtp.priority, smtp.sensitivity = 3, 1, 1
    smtp.send()
    message = server.received[1].message()
    assert (message["Importance"], message["Priority"], message["Sensitivity"]) == ("low", "normal", "Personal")
    with pytest.raises(ComponentError, match="APOP is a login of POP3"):
        smtp.auth_mechanism = 3
    assert smtp.auth_mechanism == 0


@pytest.mark.parametrize("identity", ["Bearer t0ken==", "t0ken=="])
def test_14_the_token_has_its_prefix_once(identity: str) -> None:
    """AuthorizationIdentity may say ``Bearer`` as documented, and the server sees it once; no password is needed."""
    with Server(Script(tokens={"ann": "t0ken=="})) as server:
        smtp = SMTP(allow_plaintext_auth=True)
        smtp.mail_server, smtp.mail_port = server.host, server.port
        smtp.user, smtp.auth_mechanism = "ann", 7
        smtp.config(f"AuthorizationIdentity={identity}")
        smtp.connect()
        assert server.sessions[0].user == "ann"
        assert b"XOAUTH2" in server.sessions[0].said("C")[1]
        smtp.disconnect()


def test_15_shapes_that_mislead(server: Server) -> None:
    """The server cannot change while connected; Message is octets, and goes out with its dots and a mended end."""
    smtp = ready(server, message=b"From: ann@example.com\nSubject: raw\n\n.dot\n..two\nno end")
    smtp.connect()
    for name, value, code in (("mail_server", "x", 101), ("mail_port", 26, 100), ("local_host", "127.0.0.1", 107)):
        with pytest.raises(ComponentError, match="cannot change while connected") as caught:
            setattr(smtp, name, value)
        assert caught.value.code == code
    for setting, code in (("LocalPort=1", 106), ("MaxLineLength=999", 112), ("FirewallHost=x", 108)):
        with pytest.raises(ComponentError, match="cannot change while connected") as caught:
            smtp.config(setting)
        assert caught.value.code == code
    smtp.send()
    assert server.received[0].octets == b"From: ann@example.com\r\nSubject: raw\r\n\r\n.dot\r\n..two\r\nno end\r\n"
    smtp.command = "NOOP"
    assert smtp.last_reply.startswith("250 ")
    for wrong in ("NOOP\r\nQUIT", "DATA", "AUTH PLAIN xyz"):
        with pytest.raises(ComponentError):
            smtp.command = wrong
    assert smtp.connected
    with pytest.raises(ComponentError, match="SAML") as caught:
        smtp.send_to_terminal_and_email()
    assert caught.value.code == 167
    smtp.disconnect()
    with pytest.raises(ComponentError, match="not connected") as caught:
        smtp.command = "NOOP"
    assert caught.value.code == 212
    smtp.message = b"From: ann@example.com\r\nBcc: eve@example.com\r\n\r\nhello\r\n"
    with pytest.raises(ComponentError, match="blind copies"):
        smtp.send()
    smtp.mail_server = "*example.com"
    with pytest.raises(ComponentError, match="needs a firewall"):
        smtp.connect()
