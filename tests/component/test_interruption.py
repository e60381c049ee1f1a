"""Interruption wherever a method may wait, in the three ways.

Nothing here is timed: whatever a method waits for does not come before the method has come back, so that one which is
not woken runs into the time limit of its test.
"""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from smtpkit import ComponentError
from smtpkit.component.work import Work
from smtpkit.testing import Server
from smtpkit.throttle import Throttle
from smtpkit.transport.anyio_stream import AnyioSocketStream
from smtpkit.transport.asyncio_stream import AsyncioStream
from smtpkit.transport.blocking_stream import BlockingStream
from tests.component.ways import WAYS, call, make, run
from tests.peers import peer

Prepare = Callable[[Any], None]  # points a component to where it will wait


class Place:
    """Where a method waits: ``arrived`` is set when it does, and until ``over`` is set it is not answered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch.setattr
        self.arrived, self.over = threading.Event(), threading.Event()

    def answers(self, *replies: bytes) -> Callable[[socket.socket], None]:
        """A peer that says these, hears an answer to each, and is silent then."""

        def behaviour(connection: socket.socket) -> None:
            for reply in replies:
                connection.sendall(reply)
                connection.recv(4096)
            self.arrived.set()
            self.over.wait(50)

        return behaviour

    @contextmanager
    def name(self) -> Iterator[Prepare]:
        """A resolver that hangs."""
        real = socket.getaddrinfo

        def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
            if str(host).strip("b'") != "hang.test":
                return real(host, *arguments, **options)
            if (options.get("flags", 0) or (arguments[4] if len(arguments) > 4 else 0)) & socket.AI_NUMERICHOST:
                raise socket.gaierror(socket.EAI_NONAME, "no number")
            self.arrived.set()
            self.over.wait(50)
            raise socket.gaierror(socket.EAI_NONAME, "not known")

        self.patch(socket, "getaddrinfo", getaddrinfo)
        self.patch("trio._socket._stdlib_socket.getaddrinfo", getaddrinfo)
        yield lambda smtp: setattr(smtp, "mail_server", "hang.test")

    @contextmanager
    def name_for_a_firewall(self) -> Iterator[Prepare]:
        """The same, of a name that is resolved here and connected to by the firewall."""
        with self.name():

            def prepare(smtp: Any) -> None:
                smtp.mail_server, smtp.firewall_type = "hang.test", 3
                smtp.firewall_host, smtp.firewall_port = "127.0.0.1", 9

            yield prepare

    @contextmanager
    def connect(self) -> Iterator[Prepare]:
        """A server whose backlog is full, so that the system hears nothing."""
        place = self

        class Watched(socket.socket):
            def connect_ex(self, address: Any) -> int:
                code = super().connect_ex(address)
                if address == listener.getsockname():
                    place.arrived.set()
                return code

        with socket.socket() as listener, ExitStack() as stack:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            for _ in range(4):
                filling = stack.enter_context(socket.socket())
                filling.setblocking(False)
                filling.connect_ex(listener.getsockname())
            self.patch(socket, "socket", Watched)
            yield lambda smtp: _to(smtp, listener.getsockname()[1])

    @contextmanager
    def firewall(self) -> Iterator[Prepare]:
        """A firewall that does not answer to CONNECT."""
        with peer(self.answers(b"")) as port:

            def prepare(smtp: Any) -> None:
                smtp.firewall_type = 1
                smtp.firewall_host, smtp.firewall_port = "127.0.0.1", port

            yield prepare
            self.over.set()

    @contextmanager
    def greeting(self) -> Iterator[Prepare]:
        """A server that does not greet."""
        with peer(self.answers()) as port:
            yield lambda smtp: _to(smtp, port)
            self.over.set()

    @contextmanager
    def handshake(self) -> Iterator[Prepare]:
        """A server that takes the ClientHello, and no more comes of it."""
        with peer(self.answers(b"220 hi\r\n", b"250-hi\r\n250 STARTTLS\r\n", b"220 go\r\n")) as port:
            yield lambda smtp: _to(smtp, port)
            self.over.set()

    @contextmanager
    def throttle(self) -> Iterator[Prepare]:
        """An hour until the next piece."""

        def take(throttle: Throttle, octets: int, now: float) -> float:
            self.arrived.set()
            return now + 3600

        self.patch(Throttle, "take", take)
        with Server() as server:

            def prepare(smtp: Any) -> None:
                _to(smtp, server.port)
                smtp.config("MaxTransferRate=1000")

            yield prepare
            assert server.received == []

    @contextmanager
    def write(self, *settings: str) -> Iterator[Prepare]:
        """A server that takes no mail data after its 354."""

        def behaviour(connection: socket.socket) -> None:
            for reply in (b"220 hi", b"250 hi", b"250 ok", b"250 ok", b"354 go"):
                connection.sendall(reply + b"\r\n")
                if not reply.startswith(b"354"):
                    connection.recv(4096)
            self.over.wait(50)

        def told(wait: Any) -> Any:
            async def waits(*arguments: Any, **how: Any) -> None:
                if how.get("writing", True):
                    self.arrived.set()
                await wait(*arguments, **how)

            return waits

        self.patch(AsyncioStream, "_written", told(AsyncioStream._written))
        self.patch(AnyioSocketStream, "_wait", told(AnyioSocketStream._wait))
        self.patch(BlockingStream, "_wait", told(BlockingStream._wait))
        with peer(behaviour, small_buffers=True) as port:

            def prepare(smtp: Any) -> None:
                _to(smtp, port)
                smtp.message_text = ("x" * 78 + "\r\n") * 100_000
                for setting in ("OutBufferSize=16384", *settings):
                    smtp.config(setting)

            yield prepare
            self.over.set()

    @contextmanager
    def write_that_lingers(self) -> Iterator[Prepare]:
        """The same where an orderly close would wait for an hour."""
        with self.write("LingerTime=3600") as prepare:
            yield prepare


def _to(smtp: Any, port: int) -> None:
    smtp.mail_server, smtp.mail_port = "127.0.0.1", port


BEFORE_IT_CONNECTS = {"name", "name_for_a_firewall", "connect", "firewall"}
PLACES = [
    *("name", "name_for_a_firewall", "connect", "firewall"),
    *("greeting", "handshake", "throttle", "write", "write_that_lingers"),
]


@WAYS
@pytest.mark.parametrize("where", PLACES)
def test_interrupt_wherever_it_waits(way: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread ends the method there, however often it says so; no mail is in doubt, and the next one goes."""
    place = Place(monkeypatch)
    with Server() as good, getattr(place, where)() as prepare:

        async def scenario() -> None:
            smtp = make(way, good)
            smtp.timeout = 0
            told: list[str] = []
            smtp.on_connection_status = lambda e: told.append(e.connection_event)

            def press() -> None:
                place.arrived.wait(50)
                for _ in range(1000):
                    smtp.interrupt()

            presser = threading.Thread(target=press)
            presser.start()
            prepare(smtp)
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            presser.join()
            assert place.arrived.is_set()
            assert (caught.value.code, caught.value.message) == (301, "interrupted")
            outcome = caught.value.outcome
            assert outcome is None or not (outcome.in_doubt or outcome.accepted)
            assert (outcome is None) == (where not in {"throttle", "write", "write_that_lingers"})
            assert told == [] or where not in BEFORE_IT_CONNECTS
            assert smtp.idle
            assert not smtp.connected
            monkeypatch.undo()
            smtp.mail_server, smtp.mail_port = good.host, good.port
            smtp.firewall_type, smtp.message_text = 0, "short\r\n"
            smtp.config("MaxTransferRate=0")
            smtp.config("LingerTime=0")
            assert (await call(smtp.send)).accepted
            place.over.set()  # only now, so that nobody was waited for

        run(way, scenario)
        assert len(good.received) == 1


# A line of the dialogue, and what may have become of the mail when its handler interrupts: a method ends at its next
# wait, and what can be said without one is said.
LINES = [
    ("220 smtpkit.test", {"nothing"}),
    ("EHLO", {"nothing"}),
    ("MAIL FROM", {"not sent"}),
    ("250 2.1.5", {"not sent", "in doubt", "accepted"}),
    ("354", {"not sent", "in doubt", "accepted"}),
    ("250 2.0.0", {"accepted"}),
    ("QUIT", {"accepted"}),
    ("221", {"accepted"}),
]


@WAYS
@pytest.mark.parametrize(("line", "possible"), LINES)
@pytest.mark.parametrize("helped", ["by itself", "by a thread"])
def test_interrupt_in_a_handler(way: str, line: str, possible: set[str], helped: str) -> None:
    """A handler ends its method by itself, or by a thread that it waits for; what became of the mail is said."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)

            def handler(event: Any) -> None:
                if not event.message.startswith(line):
                    return
                if helped == "by a thread":
                    presser = threading.Thread(target=smtp.interrupt)
                    presser.start()
                    presser.join()
                smtp.interrupt()

            smtp.on_pi_trail = handler
            outcome, message = await _ended(smtp)
            assert message is not None or line == "221"  # there was nothing left to wait for
            became = "nothing"
            if outcome is not None:
                became = "accepted" if outcome.accepted else "in doubt" if outcome.in_doubt else "not sent"
            assert became in possible
            assert message is None or MESSAGES[became] == message
            assert not smtp.connected
            assert became == "in doubt" or len(server.received) == (became == "accepted")
            smtp.on_pi_trail = None
            assert (await call(smtp.send)).accepted

        run(way, scenario)


MESSAGES = {
    "nothing": "interrupted",
    "not sent": "interrupted",
    "in doubt": "interrupted when the mail was sent whole: it may have been accepted",
    "accepted": "interrupted after the mail was accepted",
}


async def _ended(smtp: Any) -> tuple[Any, str | None]:
    """The outcome of a method that is interrupted, and how its error says so; None where it was done before."""
    try:
        return await call(smtp.send), None
    except ComponentError as error:
        if error.code != 301:
            raise
        return error.outcome, error.message


@WAYS
def test_interrupt_at_its_very_beginning(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A method that is not idle any more is interrupted, before its first wait: nothing was connected to."""
    begin = Work.begin
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)

            def begin_and_interrupt(work: Work) -> None:
                begin(work)
                assert not smtp.idle
                smtp.interrupt()

            monkeypatch.setattr(Work, "begin", begin_and_interrupt)
            with pytest.raises(ComponentError) as caught:
                await call(smtp.send)
            assert caught.value.code == 301
            monkeypatch.undo()
            await call(smtp.send)

        run(way, scenario)
        assert len(server.received) == 1


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals to a thread are POSIX's")
@WAYS
def test_interrupt_in_a_signal_handler(way: str) -> None:
    """It wakes the thread, or the loop, that the signal has found waiting."""
    arrived, over = threading.Event(), threading.Event()

    def silent(connection: socket.socket) -> None:
        arrived.set()
        over.wait(50)

    with peer(silent) as port:
        smtp = make(way, None)
        _to(smtp, port)
        smtp.timeout = 0

        def press() -> None:
            arrived.wait(50)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, lambda *_: smtp.interrupt())
        presser = threading.Thread(target=press)
        presser.start()
        try:
            with pytest.raises(ComponentError) as caught:
                run(way, lambda: call(smtp.connect))
        finally:
            presser.join()
            signal.signal(signal.SIGUSR1, before)
            over.set()
        assert caught.value.code == 301
