"""Resumption of TLS: a client's next session to the same server is spared the full handshake, and no other is."""

import ssl
from collections.abc import Iterator
from typing import Any

import anyio
import pytest
import trustme

from smtpkit import Client, Secured, SyncClient, TLSError
from smtpkit.options import OptionKeywords, TLSMode
from smtpkit.testing import Script, Server
from smtpkit.transport.certificate import pins_of
from smtpkit.transport.tls import default_context

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
AUTHORITY = trustme.CA()
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(autouse=True, scope="module")
def _system() -> Iterator[None]:
    """The system trusts the authority of these tests, and nobody else."""
    with AUTHORITY.cert_pem.tempfile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", file)
        default_context.cache_clear()
        yield
    default_context.cache_clear()


def issued(*names: str, version: str = "TLSv1.3", issuer: trustme.CA = AUTHORITY) -> ssl.SSLContext:
    """A server's context with a certificate for these names; each has keys of its own for its tickets."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    issuer.issue_cert(*(names or ("localhost",))).configure_cert(context)
    return context


def closing(mode: TLSMode = "required") -> Script:
    """A server that ends the session after each mail."""
    return Script(tls="implicit" if mode == "implicit" else "starttls", close_after=frozenset({"END"}))


def sent(world: str, url: str, options: OptionKeywords, times: int = 1) -> list[Secured]:
    """Send the mail so many times by one client, and return what was told of TLS."""
    told: list[Secured] = []

    async def main() -> None:
        async with Client(url, **options) as client:
            client.on(Secured, told.append)
            for _ in range(times):
                await client.send(MAIL)

    if world == "blocking":
        with SyncClient(url, **options) as client:
            client.on(Secured, told.append)
            for _ in range(times):
                client.send(MAIL)
    else:
        anyio.run(main, backend=world)
    return told


@pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", ["required", "implicit", "opportunistic"])
def test_resumed(mode: TLSMode, version: str, world: str) -> None:
    """Each session after the first resumes TLS by the ticket of the one before it, and counts as verified as that."""
    with Server(closing(mode), ssl_context=issued(version=version)) as server:
        told = sent(world, f"smtp://localhost:{server.port}", {"tls": mode}, times=3)
    assert [event.resumed for event in told] == [False, True, True]
    assert {(event.version, event.verified) for event in told} == {(version, mode != "opportunistic")}
    assert [mail.secured for mail in server.received] == [True] * 3


def test_the_report_tells() -> None:
    """A report says whether TLS was resumed, and has the certificate all the same."""
    script = Script(tls="starttls")
    with (
        Server(script, ssl_context=issued()) as server,
        SyncClient(server.url, tls="required", tls_name="localhost") as client,
    ):
        reports = [client.check(), client.check()]
    assert [report.resumed for report in reports] == [False, True]
    assert reports[0].pins == reports[1].pins
    assert reports[0].certificate == reports[1].certificate


@pytest.mark.parametrize("version", VERSIONS)
def test_a_ticket_that_is_refused(version: str) -> None:
    """A server that does not know the ticket gets a full handshake: a new certificate is verified as any."""
    options: OptionKeywords = {"tls": "required", "tls_name": "localhost"}
    told: list[Secured] = []
    context = issued(version=version)
    with Server(closing(), ssl_context=context) as server, SyncClient(server.url, **options) as client:
        client.on(Secured, told.append)
        client.send(MAIL)
        server.ssl_context = issued(version=version)
        client.send(MAIL)
        server.ssl_context = issued("mail.example.org", version=version)
        with pytest.raises(TLSError, match="not for localhost"):
            client.send(MAIL)
        server.ssl_context = issued(version=version)
        client.send(MAIL)
        client.send(MAIL)
    assert [event.resumed for event in told] == [False, False, False, True]


def test_a_server_without_tickets() -> None:
    """A server that gives none is not resumed, and nothing is amiss."""
    context = issued()
    context.num_tickets = 0
    with Server(closing(), ssl_context=context) as server:
        told = sent("blocking", f"submission://localhost:{server.port}", {}, times=2)
    assert [event.resumed for event in told] == [False, False]


@pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
def test_a_server_that_leaves_at_a_ticket(world: str) -> None:
    """A server that breaks off at a ticket is connected to again without, and is shown no ticket any more."""
    handshakes: list[str | None] = []

    def refuse_the_second(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> int | None:
        handshakes.append(name)
        return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR if len(handshakes) == 2 else None

    context = issued()
    context.sni_callback = refuse_the_second
    with Server(closing(), ssl_context=context) as server:
        told = sent(world, f"submission://localhost:{server.port}", {}, times=3)
    assert [event.resumed for event in told] == [False, False, False]
    assert len(handshakes) == 4
    assert len(server.received) == 3


DIFFERENT: dict[str, tuple[OptionKeywords, OptionKeywords]] = {
    "the same": ({}, {}),
    "another name": ({"tls_name": "localhost"}, {"tls_name": "mail.example.org"}),
    "another hello": ({"hello": "one.example"}, {"hello": "two.example"}),
}


@pytest.mark.parametrize("way", DIFFERENT)
@pytest.mark.parametrize("own", [True, False])
def test_never_by_another_client(way: str, *, own: bool) -> None:
    """A client knows no ticket of another's, though they share a context, whether or not their options differ."""
    shared = ssl.create_default_context()
    AUTHORITY.configure_trust(shared)
    with Server(closing(), ssl_context=issued("localhost", "mail.example.org")) as server:
        told: list[Secured] = []
        for options in DIFFERENT[way]:
            chosen: OptionKeywords = {**options, "ssl_context": shared} if own else options
            told += sent("blocking", f"submission://localhost:{server.port}", chosen, times=2)
    assert [event.resumed for event in told] == [False, True, False, True]


def test_never_from_the_unverified_to_the_verified() -> None:
    """The tickets of sessions that the caller's function let pass are not used where the certificate is to verify."""
    asked: list[Any] = []

    def policy(untrusted: Any) -> bool:
        asked.append(untrusted)
        return True

    with Server(closing(), ssl_context=issued(issuer=trustme.CA())) as server:
        url = f"submission://localhost:{server.port}"
        told = sent("blocking", url, {"on_untrusted": policy}, times=3)
        assert len(server.sessions) == 6  # each was verified first, and anew
    assert [(event.verified, event.resumed) for event in told] == [(True, False), (True, True), (True, True)]
    assert len(asked) == 1


def test_pins_hold_in_a_resumed_session() -> None:
    """A pinned certificate is looked at in a resumed session too: it is the one of the first handshake."""
    leaf = trustme.CA().issue_cert("mail.example.org")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(context)
    pins = pins_of(ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode()))
    with Server(closing(), ssl_context=context) as server:
        told = sent("blocking", f"submission://localhost:{server.port}", {"pins": pins}, times=2)
    assert [(event.verified, event.resumed) for event in told] == [(True, False), (True, True)]
