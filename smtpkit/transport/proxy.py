"""Through a proxy: SOCKS by python-socks' protocol classes, CONNECT by h11, both spoken over a stream of any world.

Neither library does the reading: python-socks' own connectors have a limit for each read only (in its blocking form),
drop a user without password, and choose the socket themselves; of its CONNECT the server's greeting gets lost.
"""

# ruff: noqa: D102 - the methods are those of Stream, which says what they do

from base64 import b64encode
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from smtpkit.errors import ChannelLost, ConnectError, ProxyError, TLSError, UsageError
from smtpkit.options import Proxy
from smtpkit.transport.connect import Target, ascii_host, resolve
from smtpkit.transport.stream import RawSocket, Stream

if TYPE_CHECKING:
    import h11

T = TypeVar("T")

REPLY = 16 * 1024  # octets that a proxy may say before the tunnel begins
_SOCKS_MAY_CHANGE = {1, 3, 4, 5, 6, 0x5B}  # failure, unreachable, refused; not: forbidden, not known to this proxy


async def connect_through(
    proxy: Proxy | Literal["system"],
    target: Target,
    deadline: float | None,
    *,
    connect: Callable[[Target, float | None], Awaitable[Stream]],
    run: Callable[[Callable[[], Any]], Awaitable[Any]],
) -> Stream:
    """A stream to the target through the proxy, or, where the system says that there is none, a direct one.

    ``connect`` and ``run`` are the caller's world, ``deadline`` on time.monotonic's clock is for all of it (None for
    never). The target's local address and port, family and socket options are those of the connection to the proxy,
    whose address is the stream's ``peer``.
    Raises ProxyError, ConnectError (a name that is resolved here is not known), TLSError, UsageError, TimeoutError.
    """
    if isinstance(proxy, str):
        found: Proxy | None = await run(lambda: system_proxy(target.host, target.port))
        if found is None:
            return await connect(target, deadline)
        proxy = found
    host = await _host(proxy, target, deadline, run)
    way = replace(target, host=proxy.host, port=proxy.port)
    try:
        stream = await connect(way, deadline)
    except ConnectError as error:
        raise ProxyError(f"The proxy {proxy}: {error}") from error
    try:
        stream.deadline = deadline
        if proxy.scheme == "https":
            stream = await _secured(stream, proxy)
        tunnel = Tunnel(stream)
        await (_socks if proxy.scheme.startswith("socks") else _http)(tunnel, proxy, host, target.port)
    except ChannelLost as error:
        stream.abort()
        raise ProxyError(f"The proxy {proxy} broke the connection off: {error}") from error
    except BaseException:
        stream.abort()
        raise
    # What is TLS with the proxy must not be taken for TLS with the server: the tunnel hides it.
    return tunnel if tunnel.leading or proxy.scheme == "https" else stream


def system_proxy(host: str, port: int) -> Proxy | None:
    """The proxy that the environment, else the platform's settings, name for a server; None if there is none.

    Of the environment count ``smtp_proxy``, ``all_proxy`` and ``no_proxy``, in small or capital letters; of the
    platform what urllib.request knows. May block. Raises UsageError for a proxy that cannot be used.
    """
    from urllib.request import getproxies, proxy_bypass

    if proxy_bypass(f"{ascii_host(host)}:{port}"):
        return None
    known = getproxies()
    url = known.get("smtp") or known.get("all")
    if not url and known.get("socks"):
        url = f"socks5h://{known['socks'].rpartition('://')[2]}"  # platforms name it with any scheme
    if not url:
        return None
    try:
        proxy = Proxy.of(url if "://" in url else f"http://{url}")
    except UsageError as error:
        raise UsageError(f"What the system (smtp_proxy, all_proxy) says of its proxy cannot be used: {error}") from None
    if proxy.scheme.startswith("socks4") and ":" in host:
        raise UsageError(f"The system's proxy {proxy} knows no IPv6, and {host} is such an address.")
    return proxy


class Tunnel:
    """The Stream through a proxy; what arrived together with the proxy's reply is its beginning."""

    def __init__(self, stream: Stream) -> None:
        self.peer = stream.peer
        self.local_host = stream.local_host
        self.leading = b""
        self._stream = stream

    @property
    def deadline(self) -> float | None:
        return self._stream.deadline

    @deadline.setter
    def deadline(self, deadline: float | None) -> None:
        self._stream.deadline = deadline

    @property
    def raw_socket(self) -> RawSocket | None:
        return self._stream.raw_socket

    @property
    def untaken(self) -> int:
        return self._stream.untaken

    @untaken.setter
    def untaken(self, octets: int) -> None:
        self._stream.untaken = octets

    def send(self, octets: bytes | bytearray | memoryview) -> Coroutine[Any, Any, None]:
        return self._stream.send(octets)

    async def receive(self) -> bytes:
        if not self.leading:
            return await self._stream.receive()
        octets, self.leading = self.leading, b""
        return octets

    def at_hand(self) -> bytes | None:
        if not self.leading:
            return self._stream.at_hand()
        octets, self.leading = self.leading, b""
        return octets

    def run(self, function: Callable[[], T]) -> Coroutine[Any, Any, T]:
        return self._stream.run(function)

    def sleep_until(self, when: float) -> Coroutine[Any, Any, None]:
        return self._stream.sleep_until(when)

    def now(self) -> float:
        return self._stream.now()

    def abort(self) -> None:
        self._stream.abort()

    def aclose(self) -> Coroutine[Any, Any, None]:
        return self._stream.aclose()

    async def exactly(self, count: int) -> bytes:
        """So many octets. Raises ProxyError at an early end."""
        while len(self.leading) < count:
            octets = await self._stream.receive()
            if not octets:
                raise ProxyError(f"The proxy at {self.peer} ended the connection within its reply.")
            self.leading += octets
        octets, self.leading = self.leading[:count], self.leading[count:]
        return octets


async def _host(
    proxy: Proxy, target: Target, deadline: float | None, run: Callable[[Callable[[], Any]], Awaitable[Any]]
) -> str:
    """What the proxy is asked for: a name in A-labels, or an IP address."""
    host = ascii_host(target.host)
    if proxy.scheme not in {"socks4", "socks5"}:
        return host
    addresses: list[str] = await run(lambda: resolve(Target(host, target.port), deadline))
    if proxy.scheme == "socks5":
        return addresses[0].partition("%")[0]  # a zone means nothing there
    for address in addresses:
        if ":" not in address:
            return address
    raise _error(f"{target} has no IPv4 address, and SOCKS4 knows no other; use socks5.")


async def _secured(stream: Stream, proxy: Proxy) -> Stream:
    from smtpkit.transport import tls

    context = proxy.ssl_context
    if context is None:  # loading the system's certificates takes some 20 ms
        context = await stream.run(lambda: tls.default_context(True, None))
    try:
        return await tls.secure(stream, context, proxy.host)
    except TLSError as error:
        raise TLSError(f"TLS with the proxy {proxy}: {error}") from error


async def _socks(tunnel: Tunnel, proxy: Proxy, host: str, port: int) -> None:
    """The dialogue of SOCKS4 or SOCKS5 (RFC 1928, RFC 1929)."""
    from python_socks._protocols.errors import ReplyError

    where = _named(host, port)
    if ":" in host:
        host = ip_address(host).exploded  # the only form that python-socks always takes for an address
    try:
        await (_socks4 if proxy.scheme.startswith("socks4") else _socks5)(tunnel, proxy, host, port)
    except ReplyError as error:
        reason, code = str(error), error.error_code
    except UnicodeError:
        reason, code = "Its reply holds a name that is no UTF-8", None
    else:
        return
    if "authentication" in reason.lower():
        reason += "; check the user and password of the proxy"
    raise _error(f"The proxy {proxy} did not connect to {where}: {reason}.", transient=code in _SOCKS_MAY_CHANGE)


async def _socks4(tunnel: Tunnel, proxy: Proxy, host: str, port: int) -> None:
    from python_socks._protocols import socks4

    dialogue = socks4.Connection()
    await tunnel.send(dialogue.send(socks4.ConnectRequest(host, port, proxy.user)))
    dialogue.receive(await tunnel.exactly(socks4.ConnectReply.SIZE))


async def _socks5(tunnel: Tunnel, proxy: Proxy, host: str, port: int) -> None:
    from python_socks._protocols import socks5

    dialogue = socks5.Connection()
    methods = socks5.AuthMethodsRequest(None, None)
    if proxy.user:  # also one without a password, which python-socks would not offer
        methods.methods.append(socks5.AuthMethod.USERNAME_PASSWORD)
    await tunnel.send(dialogue.send(methods))
    dialogue.receive(await tunnel.exactly(socks5.AuthMethodReply.SIZE))
    if isinstance(dialogue.state, socks5.StateServerWaitingForAuth):
        password = proxy.password.reveal() if proxy.password else ""
        await tunnel.send(dialogue.send(socks5.AuthRequest(proxy.user or "", password)))
        dialogue.receive(await tunnel.exactly(socks5.AuthReply.SIZE))
    await tunnel.send(dialogue.send(socks5.ConnectRequest(host, port)))
    reply = await tunnel.exactly(3)
    if reply[0] == socks5.SOCKS_VER and reply[1:] == b"\0\0":  # else there need not be more
        kind = await tunnel.exactly(1)
        reply += kind
        match kind[0]:
            case socks5.AddressType.IPV4:
                reply += await tunnel.exactly(4 + 2)
            case socks5.AddressType.IPV6:
                reply += await tunnel.exactly(16 + 2)
            case socks5.AddressType.DOMAIN:
                length = await tunnel.exactly(1)
                reply += length + await tunnel.exactly(length[0] + 2)
    dialogue.receive(reply)


async def _http(tunnel: Tunnel, proxy: Proxy, host: str, port: int) -> None:
    """CONNECT (RFC 9110 section 9.3.6)."""
    import h11

    dialogue = h11.Connection(h11.CLIENT, max_incomplete_event_size=REPLY)
    where = _named(host, port)
    fields = [("Host", where)]
    if proxy.user:
        login = f"{proxy.user}:{proxy.password.reveal() if proxy.password else ''}"
        fields.append(("Proxy-Authorization", f"Basic {b64encode(login.encode()).decode()}"))
    for line in proxy.headers:
        name, _, value = line.partition(":")
        fields.append((name, value.strip()))
    await tunnel.send(dialogue.send(h11.Request(method="CONNECT", target=where, headers=fields)) or b"")
    answer: h11.Response | None = None
    with suppress(h11.RemoteProtocolError):  # it quotes the proxy, who may quote us: it must not show
        answer = await _answer(tunnel, proxy, dialogue)
    if answer is None or answer.http_version not in {b"1.0", b"1.1"}:
        raise _error(f"The proxy {proxy} does not speak HTTP/1.1; check its port and scheme.")
    if answer.status_code // 100 != 2:
        raise _refused(proxy, where, answer.status_code)


async def _answer(tunnel: Tunnel, proxy: Proxy, dialogue: "h11.Connection") -> "h11.Response":
    """The final response; what follows its head is at the tunnel. Raises h11.RemoteProtocolError, ProxyError."""
    import h11

    taken = 0
    while True:
        event = dialogue.next_event()
        waiting = dialogue.trailing_data[0]
        if taken - (0 if event is h11.NEED_DATA else len(waiting)) > REPLY:
            raise _error(f"The proxy {proxy} answered with more than {REPLY} octets.")
        if isinstance(event, h11.Response):
            tunnel.leading = waiting
            return event
        if event is h11.NEED_DATA:
            if waiting[:5] != b"HTTP/"[: len(waiting)]:  # h11 would wait for an empty line
                raise h11.RemoteProtocolError("no status line")
            octets = await tunnel.receive()
            if not octets:
                raise ProxyError(f"The proxy {proxy} ended the connection within its reply.")
            taken += len(octets)
            dialogue.receive_data(octets)


def _refused(proxy: Proxy, where: str, status: int) -> ProxyError:
    """The error for a status; the words of the proxy are left out, since it could repeat our password."""
    from http.client import responses

    reason = f"{status} {responses.get(status, '')}".strip()
    if status in {401, 407}:  # tinyproxy says 401 to a wrong password
        known = "refuses this user and password" if proxy.user else "wants a user and password"
        reason += f"; it {known} (only Basic is spoken; other schemes need a Proxy-Authorization header)"
    transient = status >= 500 or status in {408, 425, 429}
    return _error(f"The proxy {proxy} did not connect to {where}: {reason}.", transient=transient)


def _error(text: str, *, transient: bool = False) -> ProxyError:
    error = ProxyError(text)
    error.transient = transient
    return error


def _named(host: str, port: int) -> str:
    return str(Target(host, port))
