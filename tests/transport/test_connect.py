"""Connecting: targets, names, addresses, and what is said when it fails."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio

from smtpkit.errors import ConnectError, UsageError
from smtpkit.transport import connect as connect_module
from smtpkit.transport.connect import (
    Target,
    address_literal,
    ascii_host,
    connect,
    connect_blocking,
    current_loop,
    peer_text,
    run_in_worker,
    run_inline,
)
from smtpkit.transport.stream import Stream
from tests.peers import echo, peer, say, silence
from tests.streams import run

Opener = Callable[[Target, float | None], Any]


@pytest.fixture(params=["asyncio", "trio", "blocking"])
def world(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def _open(world: str, target: Target, wait: float = 10, then: Callable[[Stream], Any] | None = None) -> Any:
    """Connect in a world, do something, close."""

    async def main() -> Any:
        opener: Opener = connect_blocking if world == "blocking" else connect
        stream = await opener(target, time.monotonic() + wait)
        stream.deadline = time.monotonic() + 10
        try:
            return None if then is None else await then(stream)
        finally:
            await stream.aclose()

    match world:
        case "asyncio":
            return asyncio.run(main())
        case "trio":
            return trio.run(main)
        case _:
            return run(main())


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, list[str]]]:
    """A resolver that knows these names only; "hang" hangs until the test is over."""
    known: dict[str, list[str]] = {}
    real = socket.getaddrinfo
    over = threading.Event()

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        flags = args[3] if len(args) > 3 else options.get("flags", 0)
        if flags & socket.AI_NUMERICHOST and name.endswith(".test"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if name == "hang.test":
            over.wait(20)
        if name not in known:
            if name.endswith(".test"):
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return real(host, port, *args, **options)
        return [answer for address in known[name] for answer in real(address, port, *args, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("trio._socket._stdlib_socket.getaddrinfo", getaddrinfo)
    yield known
    over.set()


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
        return port


def test_ip_address(world: str) -> None:
    """An IP address needs no resolver; a greeting that is there at once is not lost; no delay for small writes."""

    async def then(stream: Stream) -> bytes:
        return await stream.receive()

    with peer(say(b"220 hello\r\n")) as port:
        assert _open(world, Target("127.0.0.1", port), then=then) == b"220 hello\r\n"


def test_ipv6(world: str) -> None:
    """An IPv6 address is named with brackets, and its literal has the tag of RFC 5321 4.1.3."""

    async def then(stream: Stream) -> tuple[str, str]:
        return stream.peer, stream.local_host

    try:
        with peer(silence, family=socket.AF_INET6) as port:
            assert _open(world, Target("::1", port), then=then) == (f"[::1]:{port}", "[IPv6:::1]")
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_unix_socket(world: str, tmp_path: Path) -> None:
    """A path is connected to as a unix socket."""
    path = str(tmp_path / "lmtp")

    async def then(stream: Stream) -> tuple[str, str, bytes]:
        await stream.send(b"LHLO")
        return stream.peer, stream.local_host, await stream.receive()

    with peer(echo, path=path):
        assert _open(world, Target(path=path), then=then) == (path, "[127.0.0.1]", b"LHLO")


def test_missing_unix_socket(world: str, tmp_path: Path) -> None:
    """A path without a listener is a ConnectError that names it."""
    with pytest.raises(ConnectError, match=r"nobody.*No such file") as caught:
        _open(world, Target(path=str(tmp_path / "nobody")))
    assert isinstance(caught.value.__cause__, OSError)


def test_full_unix_backlog(world: str, tmp_path: Path) -> None:
    """A listener whose backlog is full for a moment is waited for."""
    path = str(tmp_path / "busy")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        first = socket.socket(socket.AF_UNIX)
        first.connect(path)
        with first:

            def accept() -> None:
                time.sleep(0.1)
                for _ in range(2):
                    listener.accept()[0].close()

            thread = threading.Thread(target=accept)
            thread.start()
            _open(world, Target(path=path))
            thread.join()
            first.close()


def test_name(world: str, names: dict[str, list[str]]) -> None:
    """A name is resolved, and the next of its addresses is tried where one refuses."""
    names["two.test"] = ["127.0.0.2", "127.0.0.1"]

    async def then(stream: Stream) -> str:
        return stream.peer

    with peer(silence) as port:
        assert _open(world, Target("two.test", port), then=then) == f"127.0.0.1:{port}"


def test_trailing_dot_and_idna(world: str, names: dict[str, list[str]]) -> None:
    """The resolver is asked for the A-labels (IDNA 2008), without the trailing dot."""
    names["xn--strae-oqa.test"] = ["127.0.0.1"]
    with peer(silence) as port:
        _open(world, Target("Straße.test.", port))


def test_refused(world: str) -> None:
    """A refused connection is a ConnectError that names host, port and reason."""
    port = _free_port()
    with pytest.raises(ConnectError, match=rf"127\.0\.0\.1:{port} cannot be reached: Connection refused") as caught:
        _open(world, Target("127.0.0.1", port))
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)
    assert isinstance(caught.value, OSError)


def test_unresolvable(world: str, names: dict[str, list[str]]) -> None:
    """A name that is not known is a ConnectError that names it."""
    with pytest.raises(ConnectError, match=r"nowhere\.test:25 was not found \(Name or service not known\)"):
        _open(world, Target("nowhere.test", 25))


def test_resolver_that_hangs(world: str, names: dict[str, list[str]]) -> None:
    """A resolver that does not answer ends at the deadline, in the blocking world too."""
    if world == "asyncio":
        pytest.skip("asyncio.run waits for the loop's own resolver threads when it ends")
    with pytest.raises(TimeoutError, match="did not answer in time"):
        _open(world, Target("hang.test", 25), wait=0.05)


def test_deadline(world: str) -> None:
    """A host that does not answer is a TimeoutError at the deadline, and no ConnectError."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        waiting = []
        try:
            for _ in range(3):  # a full backlog does not answer
                filler = socket.socket()
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
                waiting.append(filler)
            with pytest.raises(TimeoutError, match="did not answer in time") as caught:
                _open(world, Target("127.0.0.1", port), wait=0.1)
            assert not isinstance(caught.value, ConnectError)
        finally:
            for filler in waiting:
                filler.close()


def test_deadline_that_has_passed(world: str, names: dict[str, list[str]]) -> None:
    """A deadline that has passed is a TimeoutError, before anything else."""
    names["one.test"] = ["127.0.0.1"]
    with pytest.raises(TimeoutError):
        _open(world, Target("127.0.0.1", 9), wait=-1)


def test_kernel_timeout_is_no_deadline(world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ETIMEDOUT from the kernel is a ConnectError, though its class in Python is TimeoutError."""

    async def attempt(*args: Any) -> socket.socket:
        raise TimeoutError(110, "Connection timed out")

    monkeypatch.setattr(connect_module, "_attempt", attempt)
    with pytest.raises(ConnectError, match="Connection timed out"):
        _open(world, Target("127.0.0.1", 9))


def test_local_address(world: str) -> None:
    """The connection comes from the address and port that were asked for."""
    port = _free_port()

    async def then(stream: Stream) -> str:
        await stream.receive()
        return stream.local_host

    seen: list[Any] = []

    def behaviour(connection: socket.socket) -> None:
        seen.append(connection.getpeername())
        connection.sendall(b"x")

    with peer(behaviour) as server:
        target = Target("127.0.0.1", server, local_address="127.0.0.2", local_port=port)
        assert _open(world, target, then=then) == "[127.0.0.2]"
    assert seen == [("127.0.0.2", port)]


def test_local_address_of_another_machine(world: str) -> None:
    """A local address that this machine has not is a ConnectError."""
    with peer(silence) as port, pytest.raises(ConnectError, match="Cannot assign"):
        _open(world, Target("127.0.0.1", port, local_address="192.0.2.1"))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_eyeballs(names: dict[str, list[str]], backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that does not answer holds up the next one by its head start only, and loses."""
    names["slow.test"] = ["127.0.0.3", "127.0.0.1"]
    real = connect_module._attempt

    async def attempt(address: Any, *rest: Any) -> socket.socket:
        if address.text == "127.0.0.3":
            await anyio.sleep(20)
        return await real(address, *rest)

    monkeypatch.setattr(connect_module, "_attempt", attempt)
    with peer(silence) as port:
        _open(backend, Target("slow.test", port), wait=5)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancellation(backend: str, names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting that is cancelled leaves no socket behind, wherever it is."""
    names["slow.test"] = ["127.0.0.1"]

    async def main() -> None:
        for delay in (0, 0.0002, 0.0005, 0.001, 0.002):
            with anyio.move_on_after(delay):
                stream = await connect(Target("slow.test", port), None)
                stream.abort()
        await anyio.sleep(0.05)

    with peer(silence, connections=5) as port:
        anyio.run(main, backend=backend)


@pytest.mark.asyncio
async def test_blocks_nothing(names: dict[str, list[str]]) -> None:
    """Resolving, connecting, sending and receiving make no blocking call in the loop."""
    names["one.test"] = ["127.0.0.1"]
    with peer(echo) as port:
        stream = await connect(Target("one.test", port), None)
        await stream.send(b"x" * 500_000)
        got = 0
        while got < 500_000:
            got += len(await stream.receive())
        await stream.aclose()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"host": "a.test", "port": 0}, "port"),
        ({"host": "a.test", "port": 65536}, "port"),
        ({"host": "a.test", "port": 25, "local_port": -1}, "local port"),
        ({"host": "a.test", "port": 25, "local_address": "eth0"}, "local address"),
        ({"host": "", "port": 25}, "host name"),
        ({"host": "a..test", "port": 25}, "host name"),
        ({"host": "a" * 64 + ".test", "port": 25}, "host name"),
        ({"host": ".".join(["a" * 60] * 5), "port": 25}, "host name"),
        ({"host": "a\r\n.test", "port": 25}, "host name"),
        ({"host": "a b.test", "port": 25}, "host name"),
        ({"host": "a\0.test", "port": 25}, "host name"),
        ({"host": "\u2024.test", "port": 25}, "host name"),
        ({"host": "ex\u200bample\u3000.test", "port": 25}, "host name"),
        ({"path": ""}, "path"),
        ({"path": "/a\0b"}, "path"),
        ({"path": "/a", "host": "b"}, "not both"),
    ],
)
def test_targets_that_are_none(options: dict[str, Any], complaint: str) -> None:
    """What cannot be a target is refused when it is made, by a sentence that names the part."""
    with pytest.raises(UsageError, match=complaint):
        Target(**options)


def test_texts() -> None:
    """Targets, addresses and literals as texts."""
    assert str(Target("a.test", 25)) == "a.test:25"
    assert str(Target("::1", 25)) == "[::1]:25"
    assert str(Target(path="/run/x")) == "/run/x"
    assert peer_text(("127.0.0.1", 25)) == "127.0.0.1:25"
    assert peer_text(("::1", 25, 0, 0)) == "[::1]:25"
    assert peer_text(b"\0abstract") == "\0abstract"
    assert peer_text(None) == "the peer"
    assert address_literal(("192.0.2.1", 1)) == "[192.0.2.1]"
    assert address_literal(("fe80::1%eth0", 1, 0, 2)) == "[IPv6:fe80::1]"
    assert address_literal(("::ffff:192.0.2.1", 1, 0, 0)) == "[192.0.2.1]"
    assert address_literal("/run/x") == "[127.0.0.1]"
    assert ascii_host("192.0.2.1") == "192.0.2.1"
    assert ascii_host("_x.Example.COM.") == "_x.Example.COM"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_current_loop(backend: str) -> None:
    """The same object within one loop, another one in the next."""

    async def main() -> object:
        assert current_loop() is current_loop()
        assert await run_in_worker(lambda: 42) == 42
        assert await run_inline(lambda: 42) == 42
        return current_loop()

    assert anyio.run(main, backend=backend) is not anyio.run(main, backend=backend)
