"""The scripted server on sockets: a thread with an event loop of its own, so it serves any kind of client.

It listens on loopback only and performs what ``Dialogue`` says, one action after the other; while it waits or begins
TLS it does not read.
"""

import asyncio
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

from smtpkit.testing.dialogue import Dialogue
from smtpkit.testing.outlet import Action, Close, Cut, Deaf, Reset, Send, Stall, StartTLS, Wait
from smtpkit.testing.script import Received, Script, Session

_CERTIFICATE = Path(__file__).with_name("certificate.pem")
_KEY = Path(__file__).with_name("key.pem")


class Server:
    """A server on loopback, running between ``start()`` and ``stop()``; ``with`` and ``async with`` do both.

    With several scripts the first connection gets the first, the second the second, and so on; the last one goes on.
    ``scripts`` may be set anew at any time, for the connections to come. ``port`` 0 takes a free one; ``unix_path``
    listens there instead. ``ssl_context`` replaces the one with the test certificate.

    ``received`` and ``sessions`` grow while the server runs and may be read from any thread; a mail is in ``received``
    before its reply is sent.
    """

    def __init__(
        self,
        *scripts: Script,
        port: int = 0,
        unix_path: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.scripts = scripts or (Script(),)
        self.host = "127.0.0.1"
        self.port = port
        self.unix_path = unix_path
        self.received: list[Received] = []
        self.sessions: list[Session] = []
        self.counts: dict[str, int] = {}
        self.ssl_context = ssl_context
        self._connections: set[_Connection] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    @property
    def url(self) -> str:
        """Where a client finds it: ``smtp://127.0.0.1:2525``, ``smtps://localhost:…``, ``lmtp://…``, ``lmtp+unix://…``."""
        script = self.scripts[0]
        scheme = "lmtp" if script.lmtp else "smtp"
        if self.unix_path is not None:
            return f"{scheme}+unix://{self.unix_path}"
        if script.tls == "implicit" and not script.lmtp:
            return f"smtps://localhost:{self.port}"
        return f"{scheme}://{self.host}:{self.port}"

    def client_context(self) -> ssl.SSLContext:
        """A context for clients that trusts the test certificate and nothing else."""
        return ssl.create_default_context(cafile=str(_CERTIFICATE))

    def clear(self) -> None:
        """Forget what was received, the sessions, and how often the moments of the scripts have come."""
        self.received.clear()
        self.sessions.clear()
        self.counts.clear()

    def wait_for(self, count: int, timeout: float = 10) -> None:
        """Block until that many mails have been received; raise TimeoutError after ``timeout`` seconds."""
        until = time.monotonic() + timeout
        while not self._reached(count, until):
            time.sleep(0.002)

    async def wait_for_async(self, count: int, timeout: float = 10) -> None:  # noqa: ASYNC109 -- same as wait_for
        """``wait_for`` without blocking the event loop, on asyncio and trio."""
        import anyio

        until = time.monotonic() + timeout
        while not self._reached(count, until):  # noqa: ASYNC110 -- an Event belongs to one loop, this to any
            await anyio.sleep(0.002)

    def _reached(self, count: int, until: float) -> bool:
        if len(self.received) < count and time.monotonic() > until:
            raise TimeoutError(f"{len(self.received)} of {count} mails received in time")
        return len(self.received) >= count

    def start(self) -> None:
        """Listen, and serve in a daemon thread."""
        if self._thread is not None:
            raise RuntimeError("the server runs already")
        if self.ssl_context is None and any(script.tls != "none" for script in self.scripts):
            self.ssl_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self.ssl_context.load_cert_chain(_CERTIFICATE, _KEY)
        if self.unix_path is None:
            listener = socket.create_server((self.host, self.port), backlog=512)
            self.port = listener.getsockname()[1]
        else:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(self.unix_path)
            listener.listen(512)
        ready = threading.Event()
        self._thread = threading.Thread(
            target=asyncio.run, args=(self._serve(listener, ready),), name="smtpkit.testing", daemon=True
        )
        self._thread.start()
        ready.wait()

    def stop(self) -> None:
        """End all connections and the thread; what was received stays."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = self._stopping = None
        if self.unix_path is not None:
            Path(self.unix_path).unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        self.start()  # waits a millisecond, for a thread that needs nothing of this loop; so does stop()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # In the server's thread

    async def _serve(self, listener: socket.socket, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        if self.unix_path is None:
            server = await self._loop.create_server(lambda: _Connection(self), sock=listener)
        else:
            server = await self._loop.create_unix_server(lambda: _Connection(self), sock=listener)
        ready.set()
        await self._stopping.wait()
        await asyncio.sleep(0)  # what was just accepted must find the server open, or asyncio loses its socket
        server.close()
        while self._connections or len(asyncio.all_tasks()) > 1:  # besides this one, those that admit connections
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.sleep(0)

    def admit(self, connection: "_Connection") -> Dialogue:
        """The dialogue for a new connection."""
        number = len(self.sessions) + 1
        session = Session(number)
        self.sessions.append(session)
        self._connections.add(connection)
        script = self.scripts[min(number, len(self.scripts)) - 1]
        return Dialogue(script, session=session, received=self.received, counts=self.counts)

    def dismiss(self, connection: "_Connection") -> None:
        """A connection has ended."""
        self._connections.discard(connection)


class _Connection(asyncio.Protocol):
    """Performs the actions of one dialogue over one transport."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._pending: deque[Action] = deque()
        self._busy = False  # an action is going on that the others wait for
        self._deaf = False
        self._held = bytearray()  # what arrived meanwhile
        self._securing: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = self._raw = transport
        if self._server.unix_path is None:  # asyncio does it only where the socket says that its protocol is TCP
            self._socket().setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._dialogue = self._server.admit(self)
        self._perform(self._dialogue.begin())

    def data_received(self, data: bytes) -> None:
        if self._busy:
            self._held += data
            return
        self._perform(self._dialogue.receive(data))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 -- asyncio's signature
        self._pending.clear()
        self._dialogue.eof()
        self._server.dismiss(self)

    def abort(self) -> None:
        """Close without ado."""
        self._pending.clear()
        self._transport.abort()
        self._raw.abort()

    def _perform(self, actions: Iterable[Action]) -> None:
        self._pending.extend(actions)
        while self._pending and not self._busy:
            self._act(self._pending.popleft())

    def _act(self, action: Action) -> None:
        match action:
            case Send(octets):
                self._transport.write(octets)
            case Wait(seconds):
                self._pause()
                self._loop.call_later(seconds, self._resume)
            case StartTLS():
                self._pause()
                self._securing = self._loop.create_task(self._secure())
            case Close():
                self._transport.close()
            case Cut() | Reset() if self._unsent():
                self._pending.appendleft(action)
                self._pause()
                self._loop.call_later(0.001, self._resume)
            case Cut():
                self._socket().shutdown(socket.SHUT_WR)
                self._raw.abort()
            case Reset():
                self._socket().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._raw.abort()
            case Deaf():
                self._deaf = True
                self._transport.pause_reading()
            case Stall():
                pass

    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size() or self._raw.get_write_buffer_size()

    def _socket(self) -> socket.socket:
        found: socket.socket = self._raw.get_extra_info("socket")
        return found

    def _pause(self) -> None:
        self._busy = True
        self._transport.pause_reading()

    def _resume(self) -> None:
        self._busy = False
        self._perform(())
        if self._busy:
            return
        if not self._deaf and not self._transport.is_closing():
            self._transport.resume_reading()
        if self._held:
            held = bytes(self._held)
            self._held.clear()
            self.data_received(held)

    async def _secure(self) -> None:
        context = self._server.ssl_context
        assert context is not None
        try:
            secured = await self._loop.start_tls(self._transport, self, context, server_side=True)
        except (OSError, asyncio.CancelledError) as error:
            self._dialogue.session.errors.append(f"TLS did not begin: {error!r}")
            self._raw.abort()
            self.connection_lost(None)
            return
        if secured is None or self._raw.is_closing():  # asyncio tells nobody of an end within the handshake
            self.connection_lost(None)
            return
        self._transport = secured
        self._resume()
