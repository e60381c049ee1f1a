"""What is not ASCII: addresses (SMTPUTF8), domains (IDNA 2008), the body (8BITMIME) and the code page."""

import socket
from typing import Any

import pytest

from smtpkit import ComponentError
from smtpkit.testing import Script, Server
from tests.component.ways import WAYS, call, make, run


def without(*names: str) -> Script:
    """A server that does not offer these."""
    return Script(extensions=tuple(line for line in Script().extensions if line.split()[0] not in names))


def said(server: Server, verb: bytes) -> list[str]:
    """The lines of all sessions that begin so."""
    return [line.decode() for session in server.sessions for line in session.said("C") if line.startswith(verb)]


def _recipient(smtp: Any) -> None:
    smtp.message_recipient_count = 1
    smtp.message_recipient_address[0] = "jürgen@example.com"


ADDRESSES = {
    "From": lambda smtp: setattr(smtp, "from_", "Jürgen <jürgen@example.com>"),
    "ReturnPath": lambda smtp: setattr(smtp, "return_path", "jürgen@example.com"),
    "SendTo": lambda smtp: setattr(smtp, "send_to", "jürgen@example.com"),
    "Cc": lambda smtp: setattr(smtp, "cc", "jürgen@example.com"),
    "BCc": lambda smtp: setattr(smtp, "b_cc", "jürgen@example.com"),
    "MessageRecipientAddress": _recipient,
}


@WAYS
@pytest.mark.parametrize("where", ADDRESSES)
def test_a_local_part(way: str, where: str) -> None:
    """SMTPUTF8 is asked for where it is offered, and the address goes as it is; else the error comes before MAIL."""
    with Server(Script(), without("SMTPUTF8")) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            ADDRESSES[where](smtp)
            await call(smtp.send)
            with pytest.raises(ComponentError, match="does not offer SMTPUTF8") as caught:
                await call(smtp.send)
            assert caught.value.code == 167

        run(way, scenario)
        (mail,) = said(server, b"MAIL")
        assert mail.endswith(" SMTPUTF8")
        assert "<jürgen@example.com>" in mail + "".join(said(server, b"RCPT"))
        assert len(server.received) == 1
        assert server.sessions[0].errors == []


@WAYS
@pytest.mark.parametrize(
    ("domain", "wire"),
    [
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("faß.example", "xn--fa-hia.example"),  # IDNA 2003 would have made fass of it, which is somebody else
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ],
)
def test_a_domain(way: str, domain: str, wire: str) -> None:
    """A domain goes as A-labels by IDNA 2008, and SMTPUTF8 is not needed for it."""
    with Server(without("SMTPUTF8")) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.from_, smtp.send_to = f"Jürgen <ann@{domain}>", f"bob@{domain}"
            await call(smtp.send)

        run(way, scenario)
        (mail,) = server.received
        assert (mail.reverse_path, mail.paths) == (f"ann@{wire}", (f"bob@{wire}",))
        head = mail.octets.partition(b"\r\n\r\n")[0]
        assert head.isascii()
        assert mail.message()["From"].addresses[0].display_name == "Jürgen"


@WAYS
@pytest.mark.parametrize("address", ["bob@☃.example", "bob@-.example", "bob@bü_cher.example"])
def test_a_domain_that_is_none(way: str, address: str) -> None:
    """What IDNA 2008 does not allow is an error before anything is said."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.send_to = address
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            assert caught.value.code == 168

        run(way, scenario)
        assert server.sessions == []


@WAYS
def test_the_name_of_the_server(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """MailServer may be a name that is not ASCII; it is looked up by its A-labels."""
    asked: list[str] = []

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(host.decode() if isinstance(host, bytes) else host)
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("trio._socket._stdlib_socket.getaddrinfo", getaddrinfo)

    async def scenario() -> None:
        smtp = make(way, None)
        smtp.mail_server = "bücher.test"
        with pytest.raises(ComponentError) as caught:
            await call(smtp.connect)
        assert caught.value.code == 11001

    run(way, scenario)
    assert set(asked) == {"xn--bcher-kva.test"}


def _text(smtp: Any) -> None:
    smtp.message_text = "Grüße\r\n"


def _whole(smtp: Any) -> None:
    smtp.message = "From: ann@example.com\r\n\r\nGrüße\r\n".encode()


def _text_with_headers(smtp: Any) -> None:
    smtp.message_text, smtp.other_headers = "Grüße\r\n", "Content-Type: text/plain; charset=utf-8"


@WAYS
@pytest.mark.parametrize("body", [_text, _whole, _text_with_headers])
def test_a_body(way: str, body: Any) -> None:
    """Where 8BITMIME is offered it is asked for; else, and without EHLO, the error comes before MAIL."""
    with Server(Script(), without("8BITMIME"), Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            body(smtp)
            await call(smtp.send)
            for extensions in (True, False):
                smtp.allow_extensions = extensions
                with pytest.raises(ComponentError, match="does not offer 8BITMIME") as caught:
                    await call(smtp.send)
                assert caught.value.code == 167

        run(way, scenario)
        (mail,) = said(server, b"MAIL")
        assert " BODY=8BITMIME" in mail
        assert server.received[0].octets.endswith("\r\n\r\nGrüße\r\n".encode())
        assert server.sessions[0].errors == []


@WAYS
def test_ascii_needs_nothing(way: str) -> None:
    """A mail that is ASCII on the wire goes to a server without extensions, whatever its subject and names."""
    with Server(without("8BITMIME", "SMTPUTF8"), Script(extensions=())) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.from_, smtp.subject = "Jürgen <ann@example.com>", "Grüße aus Köln"
            await call(smtp.send)
            await call(smtp.send)
            smtp.allow_extensions = False
            await call(smtp.send)

        run(way, scenario)
        assert {mail.message()["Subject"] for mail in server.received} == {"Grüße aus Köln"}
        assert said(server, b"MAIL")[1:] == ["MAIL FROM:<ann@example.com>"] * 2


@WAYS
@pytest.mark.parametrize("page", ["20127", "1252", "28591", "20866"])
def test_what_a_code_page_has_not(way: str, page: str) -> None:
    """It is error 434, which names the character and the page; nothing is connected to."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.config(f"CodePage={page}")
            for name, text in (("message_text", "Hello 日本\r\n"), ("message", "From: a@example.com\r\n\r\n日本\r\n")):
                setattr(smtp, name, text)
                with pytest.raises(ComponentError, match=f"'日' is not in code page {page}") as caught:
                    await call(smtp.send)
                assert caught.value.code == 434
            smtp.config("CodePage=65001")
            await call(smtp.send)

        run(way, scenario)
        assert len(server.sessions) == 1
        assert server.received[0].octets.endswith("\r\n\r\n日本\r\n".encode())
