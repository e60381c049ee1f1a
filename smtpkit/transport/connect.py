"""From a target to a stream: names, addresses, sockets; foreign errors become ours here."""

import errno
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Any, TypeVar

from smtpkit.errors import ConnectError, UsageError
from smtpkit.options import Family, SocketOption

if TYPE_CHECKING:
    import socket

    from smtpkit.transport.asyncio_stream import AsyncioStream
    from smtpkit.transport.blocking_stream import BlockingStream, Interruption
    from smtpkit.transport.socket_stream import SocketStream

T = TypeVar("T")
S = TypeVar("S", bound="SocketStream")

HEAD_START = 0.25  # seconds before the next address is tried as well (RFC 8305 section 8)
BACKLOG_PAUSE = 0.01  # seconds before a local socket whose backlog is full is tried again


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect: ``host`` (a name, or an IP address without brackets) and ``port``, or ``path`` (unix socket).

    ``local_address`` is the IP address to connect from, ``local_port`` its port (0: any). ``family`` says which
    addresses of a name count; ``socket_options`` are set before connecting. Raises UsageError.
    """

    host: str = ""
    port: int = 0
    path: str | None = None
    local_address: str | None = None
    local_port: int = 0
    family: Family = "any"
    socket_options: tuple[SocketOption, ...] = ()

    def __post_init__(self) -> None:
        if self.path is not None:
            if self.host or self.port or self.local_address or self.local_port:
                raise UsageError("A target is a host and port, or a path, not both.")
            if not self.path or "\0" in self.path:
                raise UsageError(f"{self.path!r} is no path of a unix socket.")
            return
        if not 0 < self.port < 65536:
            raise UsageError(f"The port must be from 1 to 65535, not {self.port!r}.")
        if not 0 <= self.local_port < 65536:
            raise UsageError(f"The local port must be from 0 to 65535, not {self.local_port!r}.")
        if self.local_address is not None and _ip(self.local_address) is None:
            raise UsageError(f"The local address must be an IP address, not {self.local_address!r}.")
        ascii_host(self.host)

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class _Address:
    """One way to the target; ``text`` is how an error names it."""

    family: int
    address: Any  # what socket.connect takes
    text: str


async def connect(target: Target, deadline: float | None) -> "AsyncioStream | SocketStream":
    """Connect within the running loop, asyncio's or trio's.

    ``deadline`` is on time.monotonic's clock; TimeoutError when it comes. Raises ConnectError.
    """
    import anyio

    left = None if deadline is None else deadline - time.monotonic()
    if left is not None and left <= 0:
        raise _too_late(target)
    with anyio.move_on_after(left) as scope:
        connected = await _race(await _addresses(target), target)
        return await _stream_over(connected, target)
    assert scope.cancelled_caught
    raise _too_late(target)


async def connect_blocking(
    target: Target, deadline: float | None, *, interruption: "Interruption | None" = None
) -> "BlockingStream":
    """Connect in the caller's thread; never suspends. Otherwise as ``connect``, but one address after the other.

    Each address gets its share of the time that is left. ``interruption`` ends this, and all waits of the stream.
    """
    from smtpkit.transport.blocking_stream import BlockingStream, wait_for

    addresses = _addresses_blocking(target, deadline, interruption)
    failures: list[OSError] = []
    for index, address in enumerate(addresses):
        now = time.monotonic()
        limit = None if deadline is None else now + (deadline - now) / (len(addresses) - index)

        async def writable(waiting: "socket.socket", limit: float | None = limit) -> None:
            if not wait_for(waiting, writing=True, deadline=limit, interruption=interruption):
                raise OSError(errno.ETIMEDOUT, "no answer in its share of the time")

        async def pause(limit: float | None = limit) -> None:
            if limit is not None and time.monotonic() >= limit:
                raise OSError(errno.ETIMEDOUT, "no answer in its share of the time")
            time.sleep(BACKLOG_PAUSE)  # noqa: ASYNC251 - the caller blocks anyway

        try:
            connected = await _attempt(address, target, writable, pause)
            stream = _over(BlockingStream, connected)
            stream.interruption = interruption
            return stream
        except OSError as error:
            failures.append(error)
    if deadline is not None and time.monotonic() >= deadline:
        raise _too_late(target) from failures[-1]
    raise _failure(target, addresses, failures)


def resolve(target: Target, deadline: float | None) -> list[str]:
    """The target's IP addresses, the system's first choice first; blocks. Raises ConnectError, TimeoutError."""
    return [address.text for address in _addresses_blocking(target, deadline)]


async def run_in_worker(function: Callable[[], T], deadline: float | None = None) -> T:
    """Run something that blocks in a worker thread; who is cancelled, or has no more time, does not wait for it.

    ``deadline`` is on time.monotonic's clock; TimeoutError when it comes.
    """
    import anyio.to_thread

    left = None if deadline is None else deadline - time.monotonic()
    with anyio.move_on_after(left):
        return await anyio.to_thread.run_sync(function, abandon_on_cancel=True)
    raise TimeoutError("what ran in a worker thread took too long")


async def run_to_its_end(function: Callable[[], T]) -> T:
    """Run something that blocks in a worker thread; who is cancelled waits for its end all the same.

    A cancelled scope is felt at the next wait. asyncio's ``Task.cancel``, from which no scope shields, is raised at the
    end; what the function returns is lost then, so that it keeps itself what must not be lost.
    """
    import threading
    from concurrent.futures import Future

    import anyio.to_thread

    work: Future[T] = Future()
    turn = threading.Lock()
    cancelled: BaseException | None = None

    def perform() -> None:
        with turn:  # a second thread waits for the first, or does what nobody has begun
            if not work.done():
                try:
                    work.set_result(function())
                except BaseException as error:  # noqa: BLE001  raised where the result is wanted
                    work.set_exception(error)

    with anyio.CancelScope(shield=True):
        while not work.done():
            try:
                await anyio.to_thread.run_sync(perform)
            except anyio.get_cancelled_exc_class() as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled from work.exception()
    return work.result()


async def run_inline(function: Callable[[], T], deadline: float | None = None) -> T:
    """Run something that blocks where the caller blocks anyway; one that ends behind the deadline: TimeoutError."""
    result = function()
    if deadline is not None and time.monotonic() > deadline:
        raise TimeoutError("what ran took too long")
    return result


def apart(function: Callable[[], T], deadline: float | None, interruption: "Interruption | None" = None) -> T:
    """Run something that blocks for who knows how long while the caller's thread waits.

    It runs in a daemon thread, which is left behind with it when the deadline comes or the interruption. Raises what it
    raises, TimeoutError, Interrupted.
    """
    import socket
    import threading
    from concurrent.futures import Future

    from smtpkit.transport.blocking_stream import wait_for

    result: Future[T] = Future()
    ended, end = socket.socketpair()

    def work() -> None:
        with end:  # closed, it can be heard at the other one
            try:
                result.set_result(function())
            except BaseException as error:  # noqa: BLE001  raised where the result is wanted
                result.set_exception(error)

    with ended:
        threading.Thread(target=work, name="smtpkit apart", daemon=True).start()
        if not wait_for(ended, reading=True, deadline=deadline, interruption=interruption):
            raise TimeoutError("what ran apart took too long")
    return result.result()


def current_loop() -> object:
    """What stands for the running event loop, to be compared by identity: asyncio's loop, or trio's token."""
    loop = _asyncio_loop()
    if loop is None:
        import trio

        return trio.lowlevel.current_trio_token()
    return loop


def ascii_host(host: str) -> str:
    """The host as it is resolved, and shown to TLS: A-labels (IDNA 2008, UTS 46 mapping), no trailing dot.

    IP addresses stay as they are. Raises UsageError for what cannot be a host name.
    """
    if _ip(host) is not None:
        return host
    name = host.removesuffix(".")
    if not name.isascii():
        import idna

        try:
            name = idna.encode(name, uts46=True, std3_rules=True).decode("ascii")
        except idna.IDNAError as error:
            raise UsageError(f"{host!r} is no host name: {error}.") from error
        name = name.removesuffix(".")
    labels = name.split(".")
    if len(name) > 253 or not all(label and len(label) < 64 for label in labels):
        raise UsageError(f"{host!r} is no host name: each of its labels needs 1 to 63 octets, all of them at most 253.")
    if not all(character.isalnum() or character in "-_." for character in name):
        raise UsageError(f"{host!r} is no host name: letters, digits, hyphens and dots are allowed.")
    return name


def peer_text(address: Any) -> str:
    """A socket address as text: ``127.0.0.1:25``, ``[::1]:25``, or the path of a unix socket."""
    if isinstance(address, tuple):
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if isinstance(address, bytes):
        return os.fsdecode(address)
    return address or "the peer"


def address_literal(address: Any) -> str:
    """A socket's own address as an address literal (RFC 5321 4.1.3); of what has no IP address, the loopback's."""
    host = address[0] if isinstance(address, tuple) else "127.0.0.1"
    if ":" not in host:
        return f"[{host}]"
    ip = IPv6Address(host)
    mapped = ip.ipv4_mapped
    return f"[IPv6:{IPv6Address(int(ip))}]" if mapped is None else f"[{mapped}]"


def _ip(host: str) -> Any:
    try:
        return ip_address(host)
    except ValueError:
        return None


# Names to addresses


async def _addresses(target: Target) -> list[_Address]:
    import anyio

    known = _known_addresses(target)
    if known is not None:
        return known
    try:
        return _ways(await anyio.getaddrinfo(ascii_host(target.host), target.port, **_wanted(target)))
    except OSError as error:
        raise _unresolved(target, error) from error


def _addresses_blocking(
    target: Target, deadline: float | None, interruption: "Interruption | None" = None
) -> list[_Address]:
    """As ``_addresses``, apart: the resolver has no deadline."""
    import socket

    known = _known_addresses(target)
    if known is not None:
        return known
    wanted = _wanted(target)
    try:
        return _ways(
            apart(lambda: socket.getaddrinfo(ascii_host(target.host), target.port, **wanted), deadline, interruption)
        )
    except TimeoutError:
        raise _too_late(target) from None
    except OSError as error:
        raise _unresolved(target, error) from error


def _known_addresses(target: Target) -> list[_Address] | None:
    """The addresses that need no resolver: a path, an IP address."""
    import socket

    if target.path is not None:
        if not hasattr(socket, "AF_UNIX"):
            raise ConnectError(f"{target.path}: this system has no unix sockets.")
        return [_Address(socket.AF_UNIX, target.path, target.path)]
    if _ip(target.host) is None:
        return None
    try:
        wanted = _wanted(target)
        return _ways(socket.getaddrinfo(target.host, target.port, flags=socket.AI_NUMERICHOST, **wanted))
    except OSError as error:
        raise _unresolved(target, error) from error


def _wanted(target: Target) -> dict[str, Any]:
    import socket

    families = {"any": socket.AF_UNSPEC, "ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
    family = families[target.family]
    if target.local_address is not None:
        family = socket.AF_INET if _ip(target.local_address).version == 4 else socket.AF_INET6
    return {"family": family, "type": socket.SOCK_STREAM}


def _ways(found: list[Any]) -> list[_Address]:
    """The resolver's answer, the families taking turns (RFC 8305 section 4)."""
    first_family = found[0][0]
    addresses = [_Address(family, address, str(address[0])) for family, _, _, _, address in found]
    first = [address for address in addresses if address.family == first_family]
    other = [address for address in addresses if address.family != first_family]
    ways: list[_Address] = []
    while first or other:
        ways += first[:1] + other[:1]
        del first[:1], other[:1]
    return ways


# Addresses to a socket


async def _race(addresses: list[_Address], target: Target) -> "socket.socket":
    """The socket that connects first: each address is tried 0.25 s after the one before, or when that has failed."""
    import anyio

    failures: list[OSError] = []
    winner: list[socket.socket] = []

    async def pause() -> None:
        await anyio.sleep(BACKLOG_PAUSE)

    if len(addresses) == 1:  # no race: a task group costs more than the connection
        try:
            return await _attempt(addresses[0], target, _writable, pause)
        except OSError as error:
            raise _failure(target, addresses, [error]) from error

    async def attempt(address: _Address, failed: anyio.Event) -> None:
        try:
            connected = await _attempt(address, target, _writable, pause)
        except OSError as error:
            failures.append(error)
            failed.set()
            return
        if winner:
            connected.close()
        else:
            winner.append(connected)
            tasks.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as tasks:
            for address in addresses:
                failed = anyio.Event()
                tasks.start_soon(attempt, address, failed)
                with anyio.move_on_after(HEAD_START):
                    await failed.wait()
        if winner:
            return winner.pop()
    finally:
        for connected in winner:  # cancelled from outside at the last moment
            connected.close()
    raise _failure(target, addresses, failures)


async def _writable(waiting: "socket.socket") -> None:
    """Wait until it has connected; what is near has by now, and to ask costs a tenth of the loop's turns."""
    import anyio

    from smtpkit.transport.blocking_stream import wait_for

    if not wait_for(waiting, writing=True, deadline=0):
        await anyio.wait_writable(waiting)


async def _attempt(
    address: _Address,
    target: Target,
    writable: "Callable[[socket.socket], Awaitable[None]]",
    pause: Callable[[], Awaitable[None]],
) -> "socket.socket":
    """Connect one non-blocking socket; OSError names the address."""
    import socket

    connected = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        if address.family in {socket.AF_INET, socket.AF_INET6}:
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in target.socket_options:
            connected.setsockopt(*option)
        if target.local_address is not None or target.local_port:
            if os.name == "posix":
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            unspecified = "::" if address.family == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 - to connect from
            connected.bind((target.local_address or unspecified, target.local_port))
        while (code := connected.connect_ex(address.address)) == errno.EAGAIN and target.path is not None:
            await pause()
        if code in {errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", errno.EINPROGRESS)}:
            await writable(connected)
            code = connected.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
    except BaseException:
        connected.close()
        raise
    return connected


# A socket to a stream


async def _stream_over(connected: "socket.socket", target: Target) -> "AsyncioStream | SocketStream":
    loop = _asyncio_loop()
    try:
        if loop is None:
            from smtpkit.transport.anyio_stream import AnyioSocketStream

            return _over(AnyioSocketStream, connected)
        from smtpkit.transport.asyncio_stream import AsyncioStream

        names = _names(connected)
        stream = AsyncioStream(loop, peer=names[0], local_host=names[1])
        try:
            await loop.create_connection(lambda: stream, sock=connected)
            for option in target.socket_options:  # asyncio sets TCP_NODELAY anew
                connected.setsockopt(*option)
        except BaseException:
            stream.abort()
            raise
        return stream
    except BaseException as error:
        connected.close()
        if isinstance(error, OSError):  # lost again already
            raise _failure(target, [], [error]) from error
        raise


def _over(kind: "type[S]", connected: "socket.socket") -> "S":
    try:
        peer, local_host = _names(connected)
        return kind(connected, peer=peer, local_host=local_host)
    except BaseException:
        connected.close()
        raise


def _asyncio_loop() -> Any:
    """The running asyncio loop; None under trio, also where trio is a guest of asyncio's loop."""
    asyncio = sys.modules.get("asyncio")
    try:
        return None if asyncio is None or asyncio.current_task() is None else asyncio.get_running_loop()
    except RuntimeError:
        return None


def _names(connected: "socket.socket") -> tuple[str, str]:
    return peer_text(connected.getpeername()), address_literal(connected.getsockname())


# What went wrong


def _too_late(target: Target) -> TimeoutError:
    return TimeoutError(f"{target} did not answer in time")


def _unresolved(target: Target, error: OSError) -> ConnectError:
    return ConnectError(f"The host name of {target} was not found ({error.strerror or error}); check it, and the DNS.")


def _failure(target: Target, addresses: list[_Address], failures: list[OSError]) -> ConnectError:
    """One sentence for all attempts; the last one is the cause."""
    reasons = "; ".join(dict.fromkeys(str(failure.strerror or failure) for failure in failures))
    tried = ", ".join(address.text for address in addresses if address.text != (target.path or target.host))
    via = f" ({tried})" if tried else ""
    check = "the path and its permissions" if target.path is not None else "host, port and firewall"
    failure = ConnectError(f"{target}{via} cannot be reached: {reasons}; check {check}, and that a server listens.")
    failure.__cause__ = failures[-1]
    return failure
