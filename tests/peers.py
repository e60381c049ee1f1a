"""Peers for the tests of streams: plain threads with blocking sockets, which do one thing and end."""

import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

Behaviour = Callable[[socket.socket], None]


@contextmanager
def peer(
    behaviour: Behaviour,
    *,
    context: ssl.SSLContext | None = None,
    connections: int = 1,
    small_buffers: bool = False,
    family: int = socket.AF_INET,
    port: int = 0,
    path: str | None = None,
) -> Iterator[int]:
    """A server on loopback that does ``behaviour`` to each connection, one after the other; gives its port."""
    with socket.socket(socket.AF_UNIX if path else family) as listener:
        if small_buffers:
            shrink(listener)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1400)  # 64 KiB ones stall in small windows
        listener.bind(path or ("::1" if family == socket.AF_INET6 else "127.0.0.1", port))
        listener.listen()
        listener.settimeout(20)

        current: list[socket.socket] = []

        def serve() -> None:
            for _ in range(connections):
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(20)
                    current[:] = [connection]
                    with suppress(OSError):
                        if context is None:
                            behaviour(connection)
                        else:
                            with context.wrap_socket(connection, server_side=True) as secured:
                                current[:] = [secured]
                                behaviour(secured)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield 0 if path else listener.getsockname()[1]
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            if behaviour is deafness:
                with suppress(OSError):
                    current[0].shutdown(socket.SHUT_RDWR)  # the client's end waits behind what nobody reads
            thread.join(20)


def shrink(connection: socket.socket) -> None:
    """Small buffers: what is sent does not simply vanish into the kernel."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)


def echo(connection: socket.socket) -> None:
    """Say all back, until the client ends."""
    while octets := connection.recv(65536):
        connection.sendall(octets)


def silence(connection: socket.socket) -> None:
    """Take all, say nothing."""
    while connection.recv(65536):
        pass


def deafness(connection: socket.socket) -> None:
    """Take nothing, until the test is over."""
    poll = select.poll()
    poll.register(connection, 0)
    poll.poll(20_000)


def say(octets: bytes) -> Behaviour:
    """Say this, then end the stream."""

    def behaviour(connection: socket.socket) -> None:
        connection.sendall(octets)

    return behaviour


def reset(connection: socket.socket) -> None:
    """Break the connection with RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
