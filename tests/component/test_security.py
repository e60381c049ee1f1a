"""When TLS begins, which login is chosen, and when a password may go: decided by the port, User and the constructor."""

import ssl
from typing import Any

import pytest

from smtpkit import SMTP, AsyncSMTP, ComponentError
from smtpkit.component.choices import Trust, options
from smtpkit.testing import Script, Server
from tests.component.ways import WAYS, call, make, run

USERS = {"ann": "s3cret"}


@pytest.mark.parametrize(
    ("port", "user", "plaintext", "tls"),
    [
        (25, "", False, "opportunistic"),
        (587, "", False, "opportunistic"),
        (465, "", False, "implicit"),
        (25, "ann", False, "required"),
        (587, "ann", False, "required"),
        (465, "ann", False, "implicit"),
        (25, "ann", True, "opportunistic"),
        (465, "ann", True, "implicit"),
    ],
)
def test_when_tls_begins(port: int, user: str, plaintext: bool, tls: str) -> None:  # noqa: FBT001
    """At once on port 465; else where it is offered, and with a User it must be, unless plaintext is allowed."""
    smtp = SMTP()
    smtp.mail_server, smtp.mail_port, smtp.user, smtp.password = "mail.example.com", port, user, "s3cret"
    context = ssl.create_default_context()
    found = options(smtp, smtp._settings, Trust(None, plaintext), context, "host")
    assert found.tls == tls
    assert found.ssl_context is context  # which verifies


@WAYS
def test_port_465(way: str) -> None:
    """On the real port TLS begins at once, and the certificate is verified."""
    server = Server(Script(tls="implicit", users=USERS), port=465)
    try:
        server.start()
    except OSError as error:  # only root may, and somebody may listen there
        pytest.skip(f"port 465 of loopback cannot be had: {error}")
    try:

        async def scenario() -> None:
            smtp = make(way, server, ssl_context=server.client_context())
            smtp.mail_server = "localhost"
            smtp.config("UseIPv6=False")
            assert smtp.mail_port == 465
            smtp.user, smtp.password = "ann", "s3cret"
            assert (await call(smtp.send)).accepted
            stranger = make(way, server)
            stranger.mail_server = "localhost"
            with pytest.raises(ComponentError) as caught:
                await call(stranger.send)
            assert caught.value.code == 270

        run(way, scenario)
        (mail,) = server.received
        assert (mail.user, mail.secured) == ("ann", True)
        assert bytes(server.sessions[0].octets_in_clear) == b""
    finally:
        server.stop()


def _allowed(way: str, server: Server) -> Any:
    smtp = make(way, server, allow_plaintext_auth=True)
    smtp.user, smtp.password = "ann", "s3cret"
    return smtp


@WAYS
@pytest.mark.parametrize(
    ("offered", "number", "said"),
    [
        (("PLAIN", "LOGIN"), 0, "AUTH PLAIN"),
        (("LOGIN", "PLAIN", "CRAM-MD5"), 0, "AUTH PLAIN"),
        (("LOGIN",), 0, "AUTH LOGIN"),
        (("LOGIN", "PLAIN", "CRAM-MD5"), 1, "AUTH CRAM-MD5"),
        (("LOGIN", "PLAIN", "CRAM-MD5"), 4, "AUTH PLAIN"),
    ],
)
def test_which_mechanism(way: str, offered: tuple[str, ...], number: int, said: str) -> None:
    """0 takes the best for a user and password, LOGIN last of all; a number takes the one it stands for."""
    with Server(Script(users=USERS, mechanisms=offered)) as server:

        async def scenario() -> None:
            smtp = _allowed(way, server)
            smtp.auth_mechanism = number
            await call(smtp.send)

        run(way, scenario)
        (line,) = [line.decode() for line in server.sessions[0].said("C") if line.startswith(b"AUTH")]
        assert " ".join(line.split()[:2]) == said
        assert server.received[0].user == "ann"


@WAYS
@pytest.mark.parametrize("number", [2, 5, 6, 7])
def test_a_mechanism_that_is_not_offered(way: str, number: int) -> None:
    """It is error 167, and the password is not tried by another."""
    with Server(Script(users=USERS, mechanisms=("PLAIN", "LOGIN"))) as server:

        async def scenario() -> None:
            smtp = _allowed(way, server)
            smtp.auth_mechanism = number
            smtp.config("AuthorizationIdentity=Bearer t0ken")
            with pytest.raises(ComponentError, match="the server offers PLAIN, LOGIN") as caught:
                await call(smtp.send)
            assert caught.value.code == 167

        run(way, scenario)
        assert not [line for line in server.sessions[0].said("C") if line.startswith(b"AUTH")]


@pytest.mark.parametrize("kind", [SMTP, AsyncSMTP])
def test_apop(kind: type[SMTP | AsyncSMTP]) -> None:
    """It is refused when it is set, by whatever spelling, and the value is as it was."""
    smtp: Any = kind()
    smtp.auth_mechanism = 4
    for name in ("auth_mechanism", "AuthMechanism"):
        with pytest.raises(ComponentError, match="APOP is a login of POP3") as caught:
            setattr(smtp, name, 3)
        assert caught.value.code == 168
    with pytest.raises(ComponentError, match="APOP"):
        smtp.set_auth_mechanism(3)
    assert smtp.auth_mechanism == 4


@WAYS
def test_no_password_in_clear(way: str) -> None:
    """Without TLS a login is refused before a word of it is said, and the error names what would allow it."""
    with Server(Script(users=USERS)) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.user, smtp.password = "ann", "s3cret"
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            assert caught.value.code == 270
            assert "s3cret" not in str(caught.value)

        run(way, scenario)
        assert [line.split()[0] for line in server.sessions[0].said("C")][:1] == [b"EHLO"]
        assert b"AUTH" not in bytes(server.sessions[0].octets_in)
