"""The exporter of TLS 1.3 as a channel binding: its value is the server's, and where it cannot be had there is none."""

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from shutil import which
from subprocess import PIPE, Popen
from typing import Any

import pytest
import trustme

from smtpkit.transport import exporter as room
from smtpkit.transport.connect import Target, connect_blocking
from smtpkit.transport.exporter import exporter
from smtpkit.transport.tls import SecureStream, secure
from tests.keylog import bindings, needs_exporter
from tests.peers import peer
from tests.streams import run

AUTHORITY = trustme.CA()


def ours() -> ssl.SSLContext:
    """A client's context that trusts the server, and logs nothing."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def server(log: Path, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A server's context that writes its secrets down."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    AUTHORITY.issue_cert("localhost").configure_cert(context)
    context.keylog_filename = str(log)
    return context


def greet(connection: socket.socket) -> None:
    """Say one octet, behind which the tickets are, and wait for the end."""
    connection.sendall(b".")
    connection.recv(1)


class Told:
    """What was learnt of one session: its bindings, whether it was resumed, and the SSLObject, which lives on."""

    def __init__(self, stream: SecureStream) -> None:
        self.exporter = stream.channel_binding("tls-exporter")
        self.again = stream.channel_binding("tls-exporter")
        self.unique = stream.channel_binding("tls-unique")
        self.resumed = stream.resumed
        self.shown = repr(stream) + repr(vars(stream))
        self.tls = stream._tls


def sessions(context: ssl.SSLContext, *, times: int = 1, client: ssl.SSLContext | None = None) -> list[Told]:
    """So many sessions one after the other, each resumed by the ticket of the one before it."""
    told: list[Told] = []
    client = client or ours()

    async def main(port: int) -> None:
        ticket = None
        for _ in range(times):
            plain = await connect_blocking(Target("127.0.0.1", port), None)
            plain.deadline = plain.now() + 20
            stream = await secure(plain, client, "localhost", ticket=ticket)
            await stream.receive()
            ticket = stream.ticket
            told.append(Told(stream))
            await stream.aclose()

    with peer(greet, context=context, connections=times) as port:
        run(main(port))
    return told


@needs_exporter
def test_the_value_of_the_server(tmp_path: Path) -> None:
    """Each session has a value of its own, resumed or not: the one that follows from what the server wrote down."""
    log = tmp_path / "log"
    told = sessions(server(log), times=3)
    assert [session.resumed for session in told] == [False, True, True]
    assert [session.exporter for session in told] == list(bindings(log).values())
    assert len({session.exporter for session in told}) == 3
    assert all(session.exporter == session.again for session in told)


@needs_exporter
@pytest.mark.skipif(which("openssl") is None, reason="there is no openssl to ask")
@pytest.mark.parametrize("suite", ["AES_256_GCM_SHA384", "AES_128_GCM_SHA256", "CHACHA20_POLY1305_SHA256"])
def test_the_value_of_openssl(suite: str, tmp_path: Path) -> None:
    """With either hash function of TLS 1.3, the value is the one that ``openssl s_server`` exports."""
    pem = tmp_path / "server.pem"
    AUTHORITY.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    serve = f"openssl s_server -accept 127.0.0.1:0 -naccept 1 -cert {pem} -ciphersuites TLS_{suite}"
    export = "-keymatexport EXPORTER-Channel-Binding -keymatexportlen 32"
    found: list[bytes | None] = []

    async def main(port: int) -> None:
        plain = await connect_blocking(Target("127.0.0.1", port), None)
        plain.deadline = plain.now() + 20
        stream = await secure(plain, ours(), "localhost")
        assert stream.cipher.endswith(suite)
        found.append(stream.channel_binding("tls-exporter"))
        await stream.aclose()

    with Popen(f"{serve} {export}".split(), stdin=PIPE, stdout=PIPE) as process:
        assert process.stdout is not None
        try:
            begun = next(line for line in process.stdout if line.startswith(b"ACCEPT"))
            run(main(int(begun.rpartition(b":")[2])))
            said, _ = process.communicate(timeout=20)
        finally:
            process.kill()
    assert found == [bytes.fromhex(said.partition(b"Keying material: ")[2].split()[0].decode())]


@needs_exporter
def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """No descriptor is open that was not before, nothing shows the value, and our context logs no key."""
    client, context = ours(), server(tmp_path / "log")
    sessions(context, client=client)  # what is imported and loaded once
    before = len(list(Path("/proc/self/fd").iterdir()))
    (told,) = sessions(context, client=client)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert told.exporter is not None
    assert repr(told.exporter)[2:-1] not in told.shown
    assert told.exporter.hex() not in told.shown
    assert client.keylog_filename is None


def test_before_tls_13(tmp_path: Path) -> None:
    """TLS 1.2 has none for us; and "tls-unique" is never told, in no version (RFC 9266 section 3)."""
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        (told,) = sessions(server(tmp_path / version.name, version))
        assert told.unique is None
        assert version is ssl.TLSVersion.TLSv1_3 or told.exporter is None


@needs_exporter
@pytest.mark.parametrize("lacking", ["Python", "library", "release", "type"])
def test_where_it_cannot_be_had(lacking: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None in a Python nobody looked into, with OpenSSL inside the interpreter, of another release, or another ssl."""
    import _ssl

    (told,) = sessions(server(tmp_path / "log"))
    match lacking:
        case "Python":
            monkeypatch.setattr(room, "PROVEN", set())
        case "library":
            monkeypatch.delattr(_ssl, "__file__")
        case "release":
            monkeypatch.setattr(ssl, "OPENSSL_VERSION", "OpenSSL 9.9.9 1 Jan 2099")
        case "type":
            monkeypatch.setattr(told.tls, "_sslobj", Stranger(vars(told.tls)["_sslobj"]))
    assert exporter(told.tls) is None


class Stranger:
    """Stands in for the object of ``_ssl``, as other implementations of ssl might."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@needs_exporter
def test_a_wrong_place_is_no_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the structure elsewhere, the word would lead to a Python object: OpenSSL does not know its version."""
    (told,) = sessions(server(tmp_path / "log"))
    right: list[int] = []
    wrong: list[int] = []
    look = room._structure

    def watched(words: Sequence[int], context: int) -> int | None:
        found = look(words, context)
        assert found is not None
        right.append(found)
        wrong.extend(word for word in words[words.index(context) :] if word > 1 << 32)
        return found

    monkeypatch.setattr(room, "_structure", watched)
    assert exporter(told.tls) == told.exporter
    assert len(right) == 1
    assert len(wrong) >= 3  # context, owner, host name
    for word in wrong:
        monkeypatch.setattr(room, "_structure", lambda *_, word=word: word)
        assert exporter(told.tls) is None


LAYOUTS: list[tuple[list[int], int | None]] = [
    ([1, 70, 0, 50, 99, 0, 60], 50),
    ([1, 1, 70, 0, 50, 99], 50),  # a longer head
    ([0, 50, 99], 50),
    ([1, 70, 0, 99, 50], None),  # behind the context
    ([1, 70, 50, 0, 99], None),  # before the socket
    ([1, 70, 40, 50, 99], None),  # there is a socket
    ([1, 70, 0, 0, 99], None),
    ([1, 70, 0, 50], None),  # no context
    ([99, 0, 50, 99], None),  # two
    ([50, 99], None),
    ([99], None),
    ([], None),
]


@pytest.mark.parametrize(("words", "found"), LAYOUTS, ids=str)
def test_where_the_structure_is(words: list[int], found: int | None) -> None:
    """It is found between the socket that is none and the context, and in no other order."""
    assert room._structure(words, 99) == found
