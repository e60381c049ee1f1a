"""The grid of certificates: each that a server may show, in each mode of TLS and world, and what the error says."""

import datetime as dt
import ssl
from collections.abc import Iterator
from typing import Any, NamedTuple

import anyio
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from smtpkit import Client, Secured, SyncClient, TLSError
from smtpkit.options import OptionKeywords, TLSMode
from smtpkit.testing import Script, Server
from smtpkit.transport.tls import default_context

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
AUTHORITY = trustme.CA()
NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


def made(*names: str, common_name: str = "made", issuer: trustme.CA | None = None) -> ssl.SSLContext:
    """A server's context with a certificate as trustme does not make it: self-signed, or without any name but one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    signing: Any = key
    authority = subject
    if issuer is not None:
        authority = x509.load_pem_x509_certificate(issuer.cert_pem.bytes()).subject
        signing = serialization.load_pem_private_key(issuer.private_key_pem.bytes(), None)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())  # Python 3.13 insists on it
    builder = x509.CertificateBuilder(authority, subject, key.public_key(), 1, NOW - DAY, NOW + DAY)
    builder = builder.add_extension(signer, critical=False)
    if names:
        alternatives = x509.SubjectAlternativeName([x509.DNSName(name) for name in names])
        builder = builder.add_extension(alternatives, critical=False)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with trustme.Blob(secret + builder.sign(signing, hashes.SHA256()).public_bytes(pem)).tempfile() as file:
        context.load_cert_chain(file)
    return context


def issued(*names: str, issuer: trustme.CA = AUTHORITY, **how: Any) -> ssl.SSLContext:
    """A server's context with a certificate for these names, by an authority that the client trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issuer.issue_cert(*names, **how).configure_cert(context)
    return context


def old() -> ssl.SSLContext:
    """A server's context that speaks TLS 1.0 and 1.1 only."""
    context = issued("localhost")
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


class Case(NamedTuple):
    """What a server shows to who wants ``name``, and the words of the refusal (None: it is taken)."""

    server: ssl.SSLContext
    name: str = "localhost"
    words: tuple[str, ...] | None = None
    encrypts: bool = True  # where nobody verifies


NOT_FOR = ("is not for", "connect to a name that it is for, or say by tls_name")
NO_AUTHORITY = ("cannot be trusted", "unable to get local issuer", "trust its authority by an ssl_context")
UMLAUT = "xn--mnchen-3ya.example"

GRID = {
    "the name": Case(issued("localhost")),
    "the name and a dot": Case(issued("localhost"), "localhost."),
    "another name": Case(issued("mail.example.org"), words=(*NOT_FOR, "localhost")),
    "expired": Case(issued("localhost", not_after=NOW - DAY), words=("has expired", "the server needs a new one")),
    "not yet valid": Case(
        issued("localhost", not_before=NOW + DAY), words=("not yet valid", "check the clock of this machine")
    ),
    "self-signed": Case(made("localhost"), words=("self-signed", "trust it by pins or by an ssl_context")),
    "unknown authority": Case(issued("localhost", issuer=trustme.CA()), words=NO_AUTHORITY),
    "common name only": Case(made(common_name="localhost", issuer=AUTHORITY), words=NOT_FOR),
    "the address": Case(issued("127.0.0.1"), "127.0.0.1"),
    "the address as a name": Case(made("127.0.0.1", issuer=AUTHORITY), "127.0.0.1", ("127.0.0.1", *NOT_FOR)),
    "another address": Case(issued("127.0.0.2"), "127.0.0.1", ("127.0.0.1", "IP address mismatch", *NOT_FOR)),
    "a name for an address": Case(issued("localhost"), "127.0.0.1", ("127.0.0.1", *NOT_FOR)),
    "an address for a name": Case(issued("127.0.0.1"), words=NOT_FOR),
    "A-labels": Case(issued(UMLAUT), "münchen.example"),
    "A-labels and a dot": Case(issued(UMLAUT), "MÜNCHEN.example."),
    "other A-labels": Case(issued("xn--mnich-kva.example"), "münchen.example", NOT_FOR),
    "wildcard": Case(issued("*.example.com"), "mail.example.com"),
    "wildcard for its domain": Case(issued("*.example.com"), "example.com", NOT_FOR),
    "wildcard for two labels": Case(issued("*.example.com"), "a.b.example.com", NOT_FOR),
    "TLS 1.0 and 1.1 only": Case(
        old(), words=("broke the connection off", "it may speak no TLS 1.2 or newer"), encrypts=False
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _system() -> Iterator[None]:
    """The system trusts the authority of these tests, and nobody else: clients need no context of their own."""
    with AUTHORITY.cert_pem.tempfile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", file)
        default_context.cache_clear()
        yield
    default_context.cache_clear()


def sent(world: str, url: str, options: OptionKeywords) -> list[bool]:
    """Send the mail in that world; tell for each TLS that began whether the server was verified."""
    told: list[bool] = []

    async def main() -> None:
        async with Client(url, **options) as client:
            client.on(Secured, lambda event: told.append(event.verified))
            await client.send(MAIL)

    if world == "blocking":
        with SyncClient(url, **options) as client:
            client.on(Secured, lambda event: told.append(event.verified))
            client.send(MAIL)
    else:
        anyio.run(main, backend=world)
    return told


@pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
@pytest.mark.parametrize("mode", ["required", "implicit", "opportunistic"])
@pytest.mark.parametrize("way", GRID)
def test_grid(way: str, mode: TLSMode, world: str) -> None:
    """Required and implicit TLS take the server's own certificate and refuse all others; opportunistic takes any.

    The refusal says what is wrong and what to do, and neither in clear nor within TLS was a mail begun.
    """
    case = GRID[way]
    verifies = mode != "opportunistic"
    options: OptionKeywords = {"tls": mode, "tls_name": case.name, "timeout": 5.0, "hello": "client.example"}
    script = Script(tls="implicit" if mode == "implicit" else "starttls")
    with Server(script, ssl_context=case.server) as server:
        url = f"smtp://127.0.0.1:{server.port}"
        if (case.words is None) if verifies else case.encrypts:
            assert sent(world, url, options) == [verifies]
            assert [mail.secured for mail in server.received] == [True]
            return
        with pytest.raises(TLSError) as caught:
            sent(world, url, options)
    assert not caught.value.transient
    for word in case.words or ():
        assert word in str(caught.value)
    assert [b"MAIL" in session.octets_in for session in server.sessions] == [False]


CLOSING = frozenset({"END"})


@pytest.mark.parametrize("mode", ["required", "implicit"])
def test_certificate_changes_between_sessions(mode: TLSMode) -> None:
    """Each session of a pool looks at the certificate that it is shown: a new good one is taken, a bad one is not."""
    script = Script(tls="implicit" if mode == "implicit" else "starttls", close_after=CLOSING)

    async def main() -> None:
        async with Client(f"smtp://localhost:{server.port}", tls=mode) as client:
            await client.send(MAIL)
            server.ssl_context = issued("localhost")
            await client.send(MAIL)
            server.ssl_context = issued("mail.example.org")
            with pytest.raises(TLSError, match="is not for localhost"):
                await client.send(MAIL)
            server.ssl_context = made("localhost")
            with pytest.raises(TLSError, match="self-signed"):
                await client.send(MAIL)
            server.ssl_context = issued("localhost")
            await client.send(MAIL)

    with Server(script, ssl_context=issued("localhost")) as server:
        anyio.run(main)
    assert len(server.received) == 3
    assert [b"MAIL" in session.octets_in for session in server.sessions] == [True, True, False, False, True]
