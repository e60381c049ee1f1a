"""Pins: a certificate or key that is trusted for itself, whoever issued it, and no other."""

import hashlib
import ssl
from typing import Any

import anyio
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from smtpkit import Client, Outcome, Report, Secured, SyncClient, TLSError
from smtpkit.options import OptionKeywords, TLSMode
from smtpkit.testing import Script, Server
from smtpkit.transport.certificate import pins_of

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
DER = serialization.Encoding.DER
OTHER = f"cert-sha256:{64 * '0'}"


def judged(leaf: trustme.LeafCert) -> tuple[str, str]:
    """The pins of a certificate by an independent reader."""
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    key = certificate.public_key().public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digests = [hashlib.sha256(octets).hexdigest() for octets in (certificate.public_bytes(DER), key)]
    return f"cert-sha256:{digests[0]}", f"key-sha256:{digests[1]}"


LEAF = trustme.CA().issue_cert("mail.example.org")  # unknown authority, wrong host
LEAF_DER = x509.load_pem_x509_certificate(LEAF.cert_chain_pems[0].bytes()).public_bytes(DER)
PINS = judged(LEAF)


def context(leaf: trustme.LeafCert = LEAF) -> ssl.SSLContext:
    """A server's context with a certificate."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.configure_cert(made)
    return made


@pytest.mark.parametrize("key_type", [trustme.KeyType.RSA, trustme.KeyType.ECDSA])
def test_pins_of_a_certificate(key_type: trustme.KeyType) -> None:
    """The digests are those that another reader finds, of the certificate and of its SubjectPublicKeyInfo."""
    leaf = trustme.CA(key_type=key_type).issue_cert("localhost", key_type=key_type)
    certificate = x509.load_pem_x509_certificate(leaf.cert_chain_pems[0].bytes())
    assert pins_of(certificate.public_bytes(DER)) == judged(leaf)


def sent(world: str, url: str, options: OptionKeywords) -> tuple[Outcome, list[bool]]:
    """Send the mail in that world; tell for each TLS that began whether the server was verified."""
    told: list[bool] = []

    async def main() -> Outcome:
        async with Client(url, **options) as client:
            client.on(Secured, lambda event: told.append(event.verified))
            return await client.send(MAIL)

    if world != "blocking":
        return anyio.run(main, backend=world), told
    with SyncClient(url, **options) as client:
        client.on(Secured, lambda event: told.append(event.verified))
        return client.send(MAIL), told


worlds = pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
modes = pytest.mark.parametrize("mode", ["required", "implicit"])


@worlds
@modes
@pytest.mark.parametrize("pins", [PINS[0], PINS[1], (OTHER, PINS[0]), PINS], ids=["certificate", "key", "two", "both"])
def test_a_pin_is_trust(world: str, mode: TLSMode, pins: Any) -> None:
    """A pinned certificate or key is taken, whoever issued it and whatever name it is for, and counts as verified."""
    script = Script(tls="implicit" if mode == "implicit" else "starttls", users={"ann": "secret"})
    with Server(script, ssl_context=context()) as server:
        url = f"smtp://ann:secret@localhost:{server.port}"
        outcome, told = sent(world, url, {"tls": mode, "pins": pins})
    assert outcome.accepted
    assert told == [True]


@worlds
@modes
def test_no_pin_matches(world: str, mode: TLSMode) -> None:
    """Any other certificate is refused, before a login, by what is shown, as it could be pinned, and what to do."""
    script = Script(tls="implicit" if mode == "implicit" else "starttls", users={"ann": "secret"})
    with Server(script, ssl_context=context()) as server, pytest.raises(TLSError) as caught:
        sent(world, f"smtp://ann:secret@localhost:{server.port}", {"tls": mode, "pins": OTHER})
    for words in (*PINS, "localhost is not pinned", "make sure that this is it", "in pins"):
        assert words in str(caught.value)
    assert [(session.user, b"AUTH" in session.octets_in) for session in server.sessions] == [(None, False)]


@given(cut=st.integers(0, 2000), octet=st.integers(0, 2000), value=st.integers(0, 255))
def test_pins_of_any_octets(cut: int, octet: int, value: int) -> None:
    """What is cut or changed, and so perhaps no DER, has the pin of the whole of it at least, and never a fault."""
    der = bytearray(LEAF_DER[: len(LEAF_DER) - cut % len(LEAF_DER)])
    der[octet % len(der)] = value
    pins = pins_of(bytes(der))
    assert pins[0] == f"cert-sha256:{hashlib.sha256(der).hexdigest()}"
    assert len(pins) <= 2


def test_what_is_not_pinned() -> None:
    """The digest of a key is not taken for one of a certificate, and no new certificate is taken."""
    with Server(Script(tls="starttls"), ssl_context=context()) as server:
        url = f"smtp://localhost:{server.port}"
        sent("blocking", url, {"tls": "required", "pins": PINS[1]})
        with pytest.raises(TLSError, match="not pinned"):
            sent("blocking", url, {"tls": "required", "pins": PINS[1].replace("key", "cert")})
        server.ssl_context = context(trustme.CA().issue_cert("mail.example.org"))
        with pytest.raises(TLSError, match="not pinned"):
            sent("blocking", url, {"tls": "required", "pins": PINS})


def test_the_report_gives_the_pins() -> None:
    """The report of an unverified server holds what can be pinned, and pinned it is verified."""
    with Server(Script(tls="starttls"), ssl_context=context()) as server:
        url = f"smtp://localhost:{server.port}"
        reports: list[Report] = []
        for options in (OptionKeywords(), OptionKeywords(tls="required", pins=PINS)):
            with SyncClient(url, **options) as client:
                reports.append(client.check())
    assert [report.verified for report in reports] == [False, True]
    assert [report.pins for report in reports] == [PINS, PINS]
