"""A certificate of the client's own: shown to who asks for it, the login EXTERNAL, and what cannot be loaded."""

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from smtpkit import Authenticated, Client, SMTPError, SyncClient, UsageError
from smtpkit.options import ClientCertificate, OptionKeywords, Secret, TLSMode
from smtpkit.testing import Script, Server
from smtpkit.transport.tls import default_context

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
PASSWORD = "open sesame"
AUTHORITY = trustme.CA()
CLIENT, ANOTHER = AUTHORITY.issue_cert("ann@example.com"), AUTHORITY.issue_cert("cy@example.com")


@pytest.fixture(autouse=True, scope="module")
def _system() -> Iterator[None]:
    """The system trusts the authority of these tests, and nobody else."""
    with AUTHORITY.cert_pem.tempfile() as file, pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", file)
        default_context.cache_clear()
        yield
    default_context.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of PEM files, good and bad."""
    folder = tmp_path_factory.mktemp("pem")
    key = serialization.load_pem_private_key(CLIENT.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(PASSWORD.encode())
    encrypted = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    for name, octets in {
        "both": CLIENT.private_key_and_cert_chain_pem.bytes(),
        "certificate": CLIENT.cert_chain_pems[0].bytes(),
        "key": CLIENT.private_key_pem.bytes(),
        "encrypted": encrypted,
        "another": ANOTHER.private_key_pem.bytes(),
        "junk": b"junk",
    }.items():
        (folder / f"{name}.pem").write_bytes(octets)
    return folder


def asking(mode: TLSMode) -> Server:
    """A server that wants a client's certificate, and lets in by EXTERNAL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    AUTHORITY.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    script = Script(
        tls="implicit" if mode == "implicit" else "starttls",
        extensions=("AUTH EXTERNAL",),
        replies={"AUTH": "235 2.7.0 ok"},
    )
    return Server(script, ssl_context=context)


def logged_in(world: str, url: str, options: OptionKeywords) -> list[str]:
    """Log in by EXTERNAL and send in that world; the mechanisms that logged in."""
    told: list[str] = []

    async def main() -> None:
        async with Client(url, **options) as client:
            client.on(Authenticated, lambda event: told.append(event.mechanism))
            await client.send(MAIL)

    if world == "blocking":
        with SyncClient(url, **options) as client:
            client.on(Authenticated, lambda event: told.append(event.mechanism))
            client.send(MAIL)
    else:
        anyio.run(main, backend=world)
    return told


GIVEN: dict[str, Callable[[Path], Any]] = {
    "a file": lambda files: str(files / "both.pem"),
    "a path": lambda files: files / "both.pem",
    "two files": lambda files: (files / "certificate.pem", str(files / "key.pem")),
    "a password": lambda files: (files / "certificate.pem", files / "encrypted.pem", PASSWORD),
    "a secret": lambda files: (files / "certificate.pem", files / "encrypted.pem", Secret(PASSWORD)),
}


@pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
@pytest.mark.parametrize("mode", ["required", "implicit"])
@pytest.mark.parametrize("given", GIVEN)
def test_shown(given: str, mode: TLSMode, world: str, files: Path) -> None:
    """The server that asks for a certificate gets it, and EXTERNAL logs in by it."""
    with asking(mode) as server:
        options: OptionKeywords = {"tls": mode, "mechanism": "EXTERNAL", "client_certificate": GIVEN[given](files)}
        assert logged_in(world, f"smtp://localhost:{server.port}", options) == ["EXTERNAL"]
    assert len(server.received) == 1


@pytest.mark.parametrize("mode", ["required", "implicit"])
def test_a_server_that_asks_is_not_served_without(mode: TLSMode) -> None:
    """Without the option the same server lets nobody in: what the tests above show is the certificate's doing."""
    with asking(mode) as server, pytest.raises(SMTPError):
        logged_in("blocking", f"smtp://localhost:{server.port}", {"tls": mode, "mechanism": "EXTERNAL"})
    assert not server.received


def test_by_url(files: Path) -> None:
    """A URL can name the file."""
    with asking("required") as server:
        url = f"submission://localhost:{server.port}?mechanism=EXTERNAL&client_certificate={files / 'both.pem'}"
        assert logged_in("blocking", url, {}) == ["EXTERNAL"]


UNFIT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no such file": (lambda files: files / "nothing.pem", "cannot be read: No such file"),
    "no such key": (lambda files: (files / "certificate.pem", files / "nothing.pem"), "cannot be read: No such file"),
    "a folder": (lambda files: files, "cannot be read: Is a directory"),
    "junk": (lambda files: files / "junk.pem", "there must be a certificate and its key, in PEM"),
    "no key": (lambda files: files / "certificate.pem", "there must be a certificate and its key"),
    "no certificate": (lambda files: files / "key.pem", "there must be a certificate and its key"),
    "another's key": (
        lambda files: (files / "certificate.pem", files / "another.pem"),
        "the key is not that of the certificate",
    ),
    "no password": (lambda files: (files / "certificate.pem", files / "encrypted.pem"), "check the password"),
    "a wrong password": (
        lambda files: (files / "certificate.pem", files / "encrypted.pem", "s3cr3t"),
        "check the password",
    ),
    "a long password": (
        lambda files: (files / "certificate.pem", files / "encrypted.pem", "s3cr3t" * 500),
        "cannot be used: password cannot be longer than 1024 bytes",
    ),
}


@pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
@pytest.mark.parametrize("way", UNFIT)
def test_what_cannot_be_loaded(way: str, world: str, files: Path) -> None:
    """A file that cannot be used is a UsageError that says which, and why, before anybody is connected to."""
    given, words = UNFIT[way]
    with asking("required") as server, pytest.raises(UsageError, match="client_certificate: ") as caught:
        logged_in(world, f"submission://localhost:{server.port}", {"client_certificate": given(files)})
    assert words in str(caught.value)
    assert str(files) in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert not server.sessions


def test_contexts_are_made_once(files: Path) -> None:
    """A certificate is loaded once, and has a context that no other client shares; its password does not show."""
    own = ClientCertificate(str(files / "certificate.pem"), str(files / "encrypted.pem"), Secret(PASSWORD))
    again = ClientCertificate.of((files / "certificate.pem", files / "encrypted.pem", PASSWORD))
    assert default_context(True, own) is default_context(True, again)
    assert default_context(True, own) is not default_context(True, None)
    assert PASSWORD not in repr(own)
