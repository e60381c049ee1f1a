"""A proxy of our own, in threads: SOCKS4, 4a, 5 and CONNECT, by TLS too; the greeting leaves with its reply."""

import select
import socket
import ssl
import threading
from base64 import b64encode
from contextlib import suppress
from types import TracebackType
from typing import Self


class Relay:
    """Connects to ``upstream`` whatever it is asked for; ``asked`` and ``peers`` tell what it was asked, and by whom.

    ``login`` is the user and password to insist on. The first octets of the server leave in one piece with the reply.
    ``requests`` holds each connection's octets before the tunnel began, as they were.
    """

    def __init__(
        self,
        kind: str,
        upstream: int,
        *,
        login: tuple[str, str] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.asked: list[tuple[str, int]] = []
        self.peers: list[tuple[str, int]] = []
        self.requests: list[bytearray] = []
        self.errors: list[str] = []
        self._kind = kind
        self._upstream = upstream
        self._login = login
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._open: set[socket.socket] = set()

    @property
    def url(self) -> str:
        login = "" if self._login is None else f"{self._login[0]}:{self._login[1]}@"
        return f"{self._kind}://{login}localhost:{self.port}"

    def __enter__(self) -> Self:
        self._threads.append(threading.Thread(target=self._accept, daemon=True))
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join(10)
        self._listener.close()
        for open_one in list(self._open):
            with suppress(OSError):
                open_one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                connection, peer = self._listener.accept()
            except OSError:
                return
            self.peers.append(peer)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        raw = connection
        self._open.add(raw)
        connection.settimeout(20)
        request = bytearray()
        self.requests.append(request)
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            kinds = {"socks4": self._socks4, "socks5": self._socks5}
            reply = kinds.get(self._kind[:6], self._http)(connection, request)
            if reply:
                with socket.create_connection(("127.0.0.1", self._upstream), 20) as server:
                    ready, _, _ = select.select([server], [], [], 0.1)  # under implicit TLS nothing comes
                    connection.sendall(reply + (server.recv(65536) if ready else b""))
                    _pump(connection, server)
        except OSError as error:
            self.errors.append(repr(error))
        finally:
            self._open.discard(raw)
            connection.close()

    def _take(self, connection: socket.socket, count: int, request: bytearray) -> bytes:
        octets = b""
        while len(octets) < count:
            piece = connection.recv(count - len(octets))
            if not piece:
                raise ConnectionError("the client ended")
            octets += piece
        request += octets
        return octets

    def _until(self, connection: socket.socket, end: bytes, request: bytearray) -> bytes:
        octets = b""
        while not octets.endswith(end):
            octets += self._take(connection, 1, request)
        return octets.removesuffix(end)

    def _ask(self, host: str, port: bytes) -> None:
        self.asked.append((host, int.from_bytes(port)))

    def _socks4(self, connection: socket.socket, request: bytearray) -> bytes:
        head = self._take(connection, 8, request)
        user = self._until(connection, b"\0", request)
        host = socket.inet_ntoa(head[4:])
        if head[4:7] == b"\0\0\0":
            host = self._until(connection, b"\0", request).decode()
        if self._login is not None and user != self._login[0].encode():
            connection.sendall(b"\0\x5d" + bytes(6))
            return b""
        self._ask(host, head[2:4])
        return b"\0\x5a" + bytes(6)

    def _socks5(self, connection: socket.socket, request: bytearray) -> bytes:
        methods = self._take(connection, self._take(connection, 2, request)[1], request)
        wanted = 0 if self._login is None else 2
        if wanted not in methods:
            connection.sendall(b"\5\xff")
            return b""
        connection.sendall(bytes([5, wanted]))
        if self._login is not None:
            self._take(connection, 1, request)
            login = [self._take(connection, self._take(connection, 1, request)[0], request).decode() for _ in range(2)]
            good = tuple(login) == self._login
            connection.sendall(b"\1\0" if good else b"\1\1")
            if not good:
                return b""
        kind = self._take(connection, 4, request)[3]
        match kind:
            case 1:
                host = socket.inet_ntop(socket.AF_INET, self._take(connection, 4, request))
            case 4:
                host = socket.inet_ntop(socket.AF_INET6, self._take(connection, 16, request))
            case _:
                host = self._take(connection, self._take(connection, 1, request)[0], request).decode()
        self._ask(host, self._take(connection, 2, request))
        return b"\5\0\0\1" + bytes(6)

    def _http(self, connection: socket.socket, request: bytearray) -> bytes:
        head = self._until(connection, b"\r\n\r\n", request).decode().split("\r\n")
        if self._login is not None:
            secret = b64encode(":".join(self._login).encode()).decode()
            if f"Proxy-Authorization: Basic {secret}" not in head:
                connection.sendall(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nNo")
                return b""
        host, _, port = head[0].split(" ")[1].rpartition(":")
        self._ask(host, int(port).to_bytes(2))
        return b"HTTP/1.1 200 Connection established\r\n\r\n"


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Carry octets both ways until one side ends."""
    way: dict[socket.socket, socket.socket] = {one: other, other: one}
    while True:
        ready: list[socket.socket] = [side for side in way if isinstance(side, ssl.SSLSocket) and side.pending()]
        if not ready:
            ready, _, _ = select.select(list(way), [], [], 20)
        for side in ready:
            octets = side.recv(65536)
            if not octets:
                return
            way[side].sendall(octets)
