"""What a login is bound to: the hash of the server's certificate by its signature's hash function (RFC 5929)."""

import datetime as dt
import ssl
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from smtpkit.transport.certificate import end_point
from smtpkit.transport.connect import Target, connect_blocking
from smtpkit.transport.tls import SecureStream, secure
from tests.peers import peer, silence
from tests.streams import run

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def certificate(key: Any, function: hashes.HashAlgorithm | None, pss: Any = None) -> bytes:
    """A certificate in DER, signed by its own key."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begin, begin + dt.timedelta(days=36_500))
    return builder.sign(key, function, rsa_padding=pss).public_bytes(Encoding.DER)  # type: ignore[arg-type]  # any hash function


def digest(function: hashes.HashAlgorithm, octets: bytes) -> bytes:
    """The hash, by cryptography."""
    state = hashes.Hash(function)
    state.update(octets)
    return state.finalize()


FUNCTIONS = [hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.name)
@pytest.mark.parametrize("kind", ["RSA", "EC", "PSS"])
def test_end_point(kind: str, function: hashes.HashAlgorithm) -> None:
    """The hash function is the one of the signature, whatever the key is; PSS names it in its parameters."""
    pss = padding.PSS(padding.MGF1(function), function.digest_size) if kind == "PSS" else None
    der = certificate(EC if kind == "EC" else RSA, function, pss)
    assert end_point(der) == digest(function, der)


def test_old_hash_function() -> None:
    """In place of SHA-1 and MD5 stands SHA-256 (RFC 5929 section 4.1)."""
    der = bytearray(certificate(RSA, hashes.SHA256()))
    sha256 = bytes.fromhex("2a864886f70d01010b")
    for old in ("2a864886f70d010105", "2a864886f70d010104"):
        changed = bytes(der).replace(sha256, bytes.fromhex(old))
        assert end_point(changed) == digest(hashes.SHA256(), changed)


def test_pss_without_parameters() -> None:
    """PSS that names no hash function means SHA-1, in whose place stands SHA-256."""
    algorithm = bytes.fromhex("300d06092a864886f70d01010a3000")
    der = b"\x30" + bytes([2 + len(algorithm)]) + b"\x30\x00" + algorithm
    assert end_point(der) == digest(hashes.SHA256(), der)


def test_no_hash_function() -> None:
    """Ed25519 signs without one: there is nothing to bind to."""
    assert end_point(certificate(ED, None)) is None


def test_damaged_certificates() -> None:
    """What is no certificate has no end point, wherever it breaks off; nothing else is raised."""
    der = certificate(EC, hashes.SHA256())
    assert all(end_point(der[:length]) is None for length in range(len(der)))
    assert end_point(b"\x30\x04\x30\x00\x30\x00") is None
    assert end_point(b"\x30\x07\x30\x00\x30\x03\x02\x01\x01") is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_binding_of_a_stream(version: ssl.TLSVersion, tmp_path: Any) -> None:
    """A stream tells the end point, verified or not, in each version of TLS."""
    der = certificate(EC, hashes.SHA256())
    pem = tmp_path / "server.pem"
    key = EC.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem.write_bytes(key + ssl.DER_cert_to_PEM_cert(der).encode())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    server.maximum_version = version
    client = ssl.create_default_context()
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE

    async def main(port: int) -> SecureStream:
        stream = await connect_blocking(Target("127.0.0.1", port), None)
        stream.deadline = stream.now() + 10
        try:
            return await secure(stream, client, "localhost")
        finally:
            stream.abort()

    with peer(silence, context=server) as port:
        stream = run(main(port))
    assert stream.channel_binding("tls-server-end-point") == digest(hashes.SHA256(), der)
    assert stream.channel_binding("no such") is None
