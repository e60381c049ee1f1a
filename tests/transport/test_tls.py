"""TLS: who is trusted, what is said when it fails, and what becomes of octets around it."""

import datetime as dt
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable

import pytest
import trustme

from smtpkit.errors import TLSError
from smtpkit.transport.connect import Target, connect, connect_blocking
from smtpkit.transport.tls import SecureStream, default_context, secure
from tests.peers import Behaviour, deafness, echo, peer, say, silence
from tests.streams import MemoryStream, run

AUTHORITY = trustme.CA()


def _server(*names: str, not_after: dt.datetime | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(*names, not_after=not_after).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def _refusal(
    server: ssl.SSLContext | None, client: ssl.SSLContext, name: str | None, behaviour: Behaviour = silence
) -> str:
    """The sentence of the TLSError that a handshake ends with."""

    async def main(port: int) -> str:
        stream = await connect_blocking(Target("127.0.0.1", port), None)
        stream.deadline = stream.now() + 10
        try:
            with pytest.raises(TLSError) as caught:
                await secure(stream, client, name)
            assert caught.value.__cause__ is not None
            return str(caught.value)
        finally:
            stream.abort()

    with peer(behaviour, context=server) as port:
        return run(main(port))


def test_wrong_host(trusting: ssl.SSLContext) -> None:
    """A certificate for another host is refused, and the sentence names the host that was wanted."""
    assert "not for mail.example.com" in _refusal(_server("mail.example.org"), trusting, "mail.example.com")


def test_wrong_ip_address(trusting: ssl.SSLContext) -> None:
    """A certificate for a name is not one for an IP address."""
    assert "not for 127.0.0.1" in _refusal(_server("localhost"), trusting, "127.0.0.1")


def test_unverified() -> None:
    """A certificate of an unknown authority is refused by the default context."""
    sentence = _refusal(_server("localhost"), default_context(True, None), "localhost")
    assert "The certificate of localhost cannot be trusted" in sentence
    assert "issuer" in sentence


def test_expired(trusting: ssl.SSLContext) -> None:
    """An expired certificate is refused, and the sentence says that it has expired."""
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    assert "expired" in _refusal(_server("localhost", not_after=past), trusting, "localhost")


def test_no_common_version(trusting: ssl.SSLContext) -> None:
    """Nothing below TLS 1.2 is spoken."""
    old = _server("localhost")
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    new = ssl.create_default_context()
    AUTHORITY.configure_trust(new)
    new.minimum_version = ssl.TLSVersion.TLSv1_3
    sentence = _refusal(old, new, "localhost")
    assert "no version of TLS in common" in sentence
    assert "TLS 1.2 or newer" in sentence
    assert default_context(True, None).minimum_version is ssl.TLSVersion.TLSv1_2
    assert default_context(False, None).minimum_version is ssl.TLSVersion.TLSv1_2


def test_peer_that_speaks_no_tls(trusting: ssl.SSLContext) -> None:
    """A greeting where a handshake was expected is named as such."""
    assert "does not speak TLS" in _refusal(None, trusting, "localhost", say(b"220 mail.example.com ESMTP\r\n"))


def test_handshake_cut_off(trusting: ssl.SSLContext) -> None:
    """A peer that ends the connection within the handshake is named as such."""

    def leave(connection: socket.socket) -> None:
        connection.recv(65536)

    assert "broke the connection off" in _refusal(None, trusting, "localhost", leave)


@pytest.mark.asyncio
async def test_handshake_stall(trusting: ssl.SSLContext) -> None:
    """A handshake that is not answered ends at the deadline."""
    with peer(deafness) as port:
        stream = await connect(Target("127.0.0.1", port), None)
        stream.deadline = stream.now() + 0.05
        with pytest.raises(TimeoutError):
            await secure(stream, trusting, "localhost")
        await stream.aclose()


def test_context_that_checks_needs_a_name(trusting: ssl.SSLContext) -> None:
    """Where there is no name to check, the context must not check it: TLSError, before an octet."""
    stream = MemoryStream(lambda octets: b"")
    with pytest.raises(TLSError, match="cannot begin"):
        run(secure(stream, trusting, None))
    assert not stream.sent


@pytest.mark.parametrize(
    ("certified", "name"),
    [
        ("localhost", "localhost"),
        ("localhost", "localhost."),
        ("127.0.0.1", "127.0.0.1"),
        ("xn--mnchen-3ya.example", "MÜNCHEN.example"),
        ("xn--strae-oqa.example", "straße.example."),
    ],
)
def test_right_host(trusting: ssl.SSLContext, certified: str, name: str) -> None:
    """Names match by their A-labels (IDNA 2008) without the trailing dot, IP addresses by theirs; facts are told."""

    async def main(port: int) -> None:
        stream = await secure(await connect_blocking(Target("127.0.0.1", port), None), trusting, name)
        assert stream.version == "TLSv1.3"
        assert stream.cipher.startswith("TLS_")
        assert stream.verified
        assert stream.certificate is not None
        assert stream.certificate["subjectAltName"]
        assert (stream.certificate_der() or b"").startswith(b"0")
        await stream.aclose()

    with peer(echo, context=_server(certified)) as port:
        run(main(port))


def test_opportunistic() -> None:
    """Without verification any certificate will do, and the stream says that nothing was verified."""

    async def main(port: int) -> None:
        stream = await secure(
            await connect_blocking(Target("127.0.0.1", port), None), default_context(False, None), "x.test"
        )
        assert not stream.verified
        assert stream.certificate is None
        assert stream.certificate_der()
        await stream.aclose()

    with peer(echo, context=_server("localhost")) as port:
        run(main(port))


def test_contexts_are_made_once() -> None:
    """Making a context costs more than a handshake, so there are two of them."""
    assert default_context(True, None) is default_context(True, None)
    assert default_context(True, None).check_hostname
    assert default_context(True, None).verify_mode is ssl.CERT_REQUIRED


async def _exchange(port: int, context: ssl.SSLContext, open_: Callable[..., Awaitable[SecureStream]]) -> None:
    stream = await open_(port, context)
    stream.deadline = stream.now() + 10
    await stream.send(b"through both" * 10_000)
    got = b""
    while len(got) < 120_000:
        got += await stream.receive()
    assert got == b"through both" * 10_000
    assert stream.at_hand() is None
    await stream.aclose()


@pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
def test_tls_within_tls(trusting: ssl.SSLContext, world: str) -> None:
    """A secure stream can be secured again, as through a proxy that is reached by TLS."""
    server = _server("localhost")

    def inner(connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server.wrap_bio(incoming, outgoing, server_side=True)
        operation: Callable[[], object] = tls.do_handshake
        while True:
            try:
                result = operation()
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
            except ssl.SSLError:
                return
            else:
                if result == b"":
                    return
                if isinstance(result, bytes):
                    tls.write(result)
                connection.sendall(outgoing.read())
                operation = lambda: tls.read(16384)  # noqa: E731

    async def open_(port: int, context: ssl.SSLContext) -> SecureStream:
        connecting = connect_blocking if world == "blocking" else connect
        outer = await secure(await connecting(Target("127.0.0.1", port), None), context, "localhost")
        return await secure(outer, context, "localhost")

    with peer(inner, context=server) as port:
        match world:
            case "asyncio":
                import asyncio

                asyncio.run(_exchange(port, trusting, open_))
            case "trio":
                import trio

                trio.run(_exchange, port, trusting, open_)
            case _:
                run(_exchange(port, trusting, open_))


def test_close_notify_is_said_and_not_waited_for(trusting: ssl.SSLContext) -> None:
    """The peer sees an end in order, though it says nothing itself."""
    seen: list[bytes] = []

    def behaviour(connection: socket.socket) -> None:
        seen.append(connection.recv(100))  # raises where the end is not in order

    async def main(port: int) -> None:
        stream = await secure(await connect_blocking(Target("127.0.0.1", port), None), trusting, "localhost")
        await stream.aclose()

    with peer(behaviour, context=_server("localhost")) as port:
        run(main(port))
    assert seen == [b""]


def test_end_in_the_plain(trusting: ssl.SSLContext) -> None:
    """An end without close_notify is a plain end: what came before it is whole, and was read before."""

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(b"last")
        assert isinstance(connection, ssl.SSLSocket)
        socket.socket(fileno=connection.detach()).close()

    async def main(port: int) -> None:
        stream = await secure(await connect_blocking(Target("127.0.0.1", port), None), trusting, "localhost")
        assert await stream.receive() == b"last"
        assert await stream.receive() == b""
        await stream.aclose()

    with peer(behaviour, context=_server("localhost")) as port:
        run(main(port))


def test_octets_with_the_handshake(trusting: ssl.SSLContext) -> None:
    """What the peer says in the same breath as its handshake is not lost."""
    said = threading.Event()

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(b"220 at once\r\n")
        said.set()
        connection.recv(1)

    async def main(port: int) -> None:
        stream = await secure(await connect_blocking(Target("127.0.0.1", port), None), trusting, "localhost")
        said.wait(10)
        assert await stream.receive() == b"220 at once\r\n"
        await stream.aclose()

    with peer(behaviour, context=_server("localhost")) as port:
        run(main(port))


@pytest.mark.parametrize("size", [1, 1000, 16384, 16385, 65536])
def test_untaken_counts_whole_records(trusting: ssl.SSLContext, size: int) -> None:
    """Wherever the write of the plain stream fails: what is said to be untaken, the peer has not decrypted."""
    server = _server("localhost")
    for cut in {0, 1, size // 2, 16384, 16405, 16406, 16407, size, size + 21, size + 22, size + 88}:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server.wrap_bio(incoming, outgoing, server_side=True)
        heard = bytearray()
        shaken = False

        def answer(
            octets: bytes,
            tls: ssl.SSLObject = tls,
            incoming: ssl.MemoryBIO = incoming,
            outgoing: ssl.MemoryBIO = outgoing,
            heard: bytearray = heard,
        ) -> bytes:
            nonlocal shaken
            incoming.write(octets)
            try:
                if not shaken:
                    tls.do_handshake()
                    shaken = True
                while True:
                    heard.extend(tls.read(65536))
            except ssl.SSLWantReadError:
                return outgoing.read()

        plain = MemoryStream(answer)
        stream = run(secure(plain, trusting, "localhost"))
        plain._fail_after = len(plain.sent) + cut
        try:
            run(stream.send(bytes(size)))
        except ConnectionError:
            assert stream.untaken == size - len(heard), f"cut after {cut}"
        else:
            assert stream.untaken == 0
            assert len(heard) == size
