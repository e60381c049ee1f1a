r"""The player of transcripts: both sides of a dialogue from one file, in memory or over a socket.

A transcript reads like RFC 5321 appendix D. It begins with ``#`` lines that say what it shows; then come acts, each
with the dialogue that belongs to it and what came of it::

    open smtp://mail.example?tls=none    and perhaps token=… hello=… (client.example if it is not said)
    send                                 one transaction, told by the indented lines below it and ``|`` lines
      from ann@example.com               and perhaps ret=HDRS envid=QQ1
      to bob@example.com                 and perhaps notify=SUCCESS,DELAY orcpt=bob@old.example; a line a path
      size unknown                       the source tells each ``|`` line as a chunk, once
    | Subject: a line of the mail data
    verify TEXT, expand TEXT, noop, command TEXT, close

    C: a line the client says            octet for octet; octets it says besides, or too early, are a failure
    C: <anything>                        anything, until the client closes
    S: a line the server says            lines in a row are one segment
    S: <end>  S: <reset>  S: <silence>   the server's stream ends, breaks off, or a limit of the client runs out
    TLS                                  TLS begins; TLS <untrusted>: its certificate is not; TLS <broken off>

    = accepted PATH, PATH                what came of the act, whole: the outcome of a send;
    = refused PATH: REPLY                ``open``, ``reply REPLY`` or ``members A, B`` of the other acts
    = in doubt PATH, PATH
    = error CLASS                        and its reply, limit or extension
    = in step                            the session's state: and perhaps ``, RSET leads the next``; or ``broken``,
                                         ``unusable`` (something arrived that was not asked for), ``closed``

Lines of the server after a ``=`` line are said while the client rests. In ``C:``, ``S:`` and ``|`` lines ``\r``,
``\n``, ``\\`` and ``\xNN`` are octets, a ``\`` at the end says that the line is not ended, ``<N octets>`` is so much of
an endless row of x's in lines of 80 octets, and ``{1..9}`` makes a line of each number.
"""

import re
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypeVar

import smtpkit.testing
from smtpkit.errors import ChannelLost, NotSupported, Outcome, Refused, SMTPError, TimedOut, TLSError
from smtpkit.message.message import Prepared
from smtpkit.observers import Observers
from smtpkit.options import Options
from smtpkit.protocol import procedures
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.mail_data import MailData
from smtpkit.session import Known, Session, World, members
from smtpkit.session.opening import Opening
from smtpkit.transport.connect import Target, run_inline
from smtpkit.transport.stream import Stream

T = TypeVar("T")

FOLDER = Path(__file__).with_name("transcripts")
CERTIFICATE = Path(smtpkit.testing.__file__).with_name("certificate.pem")
PATIENCE = 5.0  # seconds that the server on a socket waits for the client

# The transcript


class Line(NamedTuple):
    """One line of the dialogue: ``kind`` is C, S, TLS or a marker such as ``<end>``."""

    where: str
    kind: str
    octets: bytes = b""


@dataclass
class Part:
    """One act (none where the server speaks while the client rests), its dialogue, and what came of it."""

    act: str | None = None
    terms: list[str] = field(default_factory=list)  # the indented lines
    mail: list[bytes] = field(default_factory=list)
    dialogue: list[Line] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


@dataclass
class Transcript:
    """A transcript as read from its file."""

    parts: list[Part]

    @classmethod
    def of(cls, name: str) -> Self:
        """Read the file of this name."""
        return cls.read((FOLDER / f"{name}.txt").read_text(encoding="utf-8"), f"{name}.txt")

    @classmethod
    def read(cls, whole: str, name: str) -> Self:
        """Read a transcript. Raises ValueError for a line that is none of those above."""
        parts: list[Part] = []
        told = [0, 0]
        for number, text in enumerate(whole.splitlines(), 1):
            where = f"{name}:{number}: {text}"
            mark, _, rest = text.partition(" ")
            if not text or mark == "#":
                continue
            if mark in {"open", "send", "verify", "expand", "noop", "command", "close"}:
                parts.append(Part(text))
                told = [0, 0]
                continue
            if mark in {"C:", "S:", "TLS"} and parts[-1].results:
                parts.append(Part())
            part = parts[-1]
            if mark == "":
                part.terms += _each(text.strip())
            elif mark == "=":
                part.results.append(re.sub(r"\S*\{\d+\.\.\d+\}\S*", lambda row: ", ".join(_each(row[0])), rest))
            elif mark == "TLS" or rest in {"<end>", "<reset>", "<silence>", "<anything>"}:
                part.dialogue.append(Line(where, f"TLS {rest}".strip() if mark == "TLS" else rest))
            elif mark == "|":
                part.mail += (_octets(line, told, 0) for line in _each(rest))
            elif mark in {"C:", "S:"}:
                part.dialogue += (Line(where, mark[0], _octets(line, told, 1)) for line in _each(rest))
            else:
                raise ValueError(where)
        return cls(parts)

    @property
    def tls(self) -> set[str]:
        """The kinds of TLS there are in it."""
        return {line.kind for part in self.parts for line in part.dialogue if line.kind.startswith("TLS")}


def _each(text: str) -> Iterator[str]:
    """The line, or one for each number in its braces."""
    row = re.search(r"\{(\d+)\.\.(\d+)\}", text)
    if row is None:
        yield text
    else:
        for number in range(int(row[1]), int(row[2]) + 1):
            yield text.replace(row[0], str(number))


def _octets(text: str, told: list[int], side: int) -> bytes:
    """What a line stands for; ``told`` counts the x's of either side so far."""
    if many := re.fullmatch(r"<(\d+) octets>", text):
        start = told[side] % 80
        told[side] += int(many[1])
        return ((b"x" * 78 + b"\r\n") * (int(many[1]) // 80 + 2))[start : start + int(many[1])]
    octets = re.sub(
        rb"\\(x[0-9a-f]{2}|[rn\\])",
        lambda found: {b"r": b"\r", b"n": b"\n", b"\\": b"\\"}.get(found[1]) or bytes.fromhex(found[1][1:].decode()),
        text.encode(),
    )
    whole = (len(text) - len(text.rstrip("\\"))) % 2 == 0
    return octets + b"\r\n" if whole else octets[:-1]


# The server's side, as a generator of wishes


class Wish(NamedTuple):
    """What the server's side wants done next.

    ``read``: at most ``most`` octets; comes back: they, b"" once the client has closed. ``write``: ``octets``; where
    ``alone``, the client must not have said more than was read. ``rest``: wait for the next act.
    """

    kind: str
    where: str = ""
    octets: bytes = b""
    most: int = 65_536
    alone: bool = True


def follow(transcript: Transcript) -> Generator[Wish, bytes, None]:
    """The server's side of a transcript. Raises AssertionError for what the client should not have said."""
    for part in transcript.parts:
        yield Wish("rest", f"the act {part.act}")
        dialogue = part.dialogue
        for index, line in enumerate(dialogue):
            if line.kind == "C":
                yield from _expect(line)
            elif line.kind == "<anything>":
                while (yield Wish("read", line.where)):
                    pass
            elif line.kind == "S":
                if index == 0 or dialogue[index - 1].kind != "S":
                    row = b"".join(each.octets for each in takewhile(lambda each: each.kind == "S", dialogue[index:]))
                    alone = all(each.kind != "<anything>" for each in dialogue[index:])
                    yield Wish("write", line.where, row, alone=alone)
            else:
                yield Wish(line.kind, line.where)
    yield Wish("rest", "the end of the transcript")
    while octets := (yield Wish("read", "the end of the transcript")):
        raise AssertionError(f"after the end of the transcript the client said {octets[:200]!r}")


def _expect(line: Line) -> Generator[Wish, bytes, None]:
    said = b""
    while len(said) < len(line.octets):
        octets = yield Wish("read", line.where, most=len(line.octets) - len(said))
        said += octets
        if not octets or not line.octets.startswith(said):
            said = said or b"(it closed)"
            raise AssertionError(f"{line.where[:200]}\n  expected {line.octets[:200]!r}\n  said     {said[:200]!r}")


class MemoryPeer:
    """The server in memory, and the stream to it: it never suspends, and its clock moves only by waiting.

    ``by_octet`` lets what is heard arrive octet by octet; what comes while the client rests has come whole.
    """

    def __init__(self, transcript: Transcript, *, by_octet: bool) -> None:
        self.deadline: float | None = None
        self.untaken = 0
        self.peer = "memory:25"
        self.local_host = "[127.0.0.1]"
        self.raw_socket = None
        self.closed = False
        self.failure: AssertionError | None = None
        self._by_octet = by_octet
        self._clock = 0.0
        self._arrived: deque[bytes] = deque()
        self._after: Literal["<end>", "<reset>", "<silence>", "nothing"] = "nothing"
        self._server = follow(transcript)
        self._wish = next(self._server)

    # the server

    def begin(self, *, unasked: bool = False) -> None:
        """The next part begins."""
        self._go_on(b"", whole=unasked)
        if self.closed:
            self._end()

    async def part_ended(self) -> None:
        """Raises AssertionError if the client has not said all it should."""
        if self.failure is None and self._wish.kind != "rest":
            self.failure = AssertionError(f"{self._wish.where}\n  the client did not come to this")
        if self.failure is not None:
            raise self.failure

    async def unasked(self, session: Session) -> None:
        """What the server said unasked has arrived."""

    async def ended(self) -> None:
        """The client has closed, and said nothing more."""
        assert self.closed, "the client has not closed the connection"
        if self.failure is not None:
            raise self.failure

    def _go_on(self, octets: bytes, *, whole: bool = False) -> None:
        try:
            self._wish = self._server.send(octets)
            while self._wish.kind not in {"read", "rest"} and not self._wish.kind.startswith("TLS"):
                if self._wish.kind == "write":
                    self._after = "nothing"
                    pieces = [self._wish.octets]
                    if self._by_octet and not whole:
                        pieces = [bytes([octet]) for octet in self._wish.octets]
                    self._arrived.extend(pieces)
                else:
                    self._after = self._wish.kind  # type: ignore[assignment]  # the markers of a transcript are these
                self._wish = self._server.send(b"")
        except StopIteration:
            pass
        except AssertionError as failure:
            self.failure = self.failure or failure

    def _fail(self, why: str) -> AssertionError:
        self.failure = self.failure or AssertionError(f"{self._wish.where}\n  {why}")
        return self.failure

    def _end(self) -> None:
        if self._wish.kind == "read" and self.failure is None:
            self._go_on(b"")

    async def secure(self) -> None:
        """TLS begins here, or fails."""
        if not self._wish.kind.startswith("TLS"):
            raise self._fail("the client begins TLS")
        refused = self._wish.kind != "TLS"
        self._go_on(b"")
        if refused:
            raise TLSError("refused")

    # the stream

    async def send(self, octets: bytes | bytearray | memoryview) -> None:
        left = bytes(octets)
        self.untaken = len(left)
        if self._after == "<reset>" and not self._arrived:
            raise ChannelLost("reset")
        heard = len(self._arrived)  # what was there to be heard before this was said
        while left:
            if len(self._arrived) > heard and self._wish.kind == "read" and "<anything>" not in self._wish.where:
                raise self._fail(f"the client did not wait for what stands before this, and said {left[:200]!r}")
            if self._wish.kind != "read" and self._after == "<reset>":
                break
            if self._wish.kind != "read":
                raise self._fail(f"here the client said {left[:200]!r}")
            most = self._wish.most
            self._go_on(left[:most])
            left = left[most:]
            if self.failure is not None:
                raise self.failure
        self.untaken = 0

    async def receive(self) -> bytes:
        octets = self.at_hand()
        if octets is None:
            if self._after != "<silence>" or self.deadline is None:
                raise self._fail("here the client waits for the server")
            self._clock = max(self._clock, self.deadline)
            raise TimeoutError("silence")
        if not octets and self._after == "<reset>":
            raise ChannelLost("reset")
        return octets

    def at_hand(self) -> bytes | None:
        if self._arrived:
            return self._arrived.popleft()
        return b"" if self.closed or self._after in {"<end>", "<reset>"} else None

    async def run(self, function: Callable[[], T]) -> T:
        return function()

    async def sleep_until(self, when: float) -> None:
        self._clock = max(self._clock, when)

    def now(self) -> float:
        return self._clock

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self._end()

    async def aclose(self) -> None:
        self.abort()


class SocketPeer:
    """The server on a socket of loopback, in a thread of its own; ``pause`` lets the client's world wait a moment."""

    def __init__(self, transcript: Transcript, pause: Callable[[], Awaitable[None]]) -> None:
        self.failure: AssertionError | None = None
        self._pause = pause
        self._server = follow(transcript)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        if any(line.kind == "<anything>" for part in transcript.parts for line in part.dialogue):
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)  # so that the client is held up
        self.port: int = self._listener.getsockname()[1]
        self._begun = self._rested = 0
        self._turn = threading.Semaphore(0)
        self._thread = threading.Thread(target=self._serve, name="transcript")
        self._socket: socket.socket

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _ in range(100):
            self._turn.release()
        self._thread.join()

    def begin(self, *, unasked: bool = False) -> None:
        """The next part begins."""
        self._begun += 1
        self._turn.release()

    async def part_ended(self) -> None:
        """Raises AssertionError if the client has not said all it should."""
        while self._rested <= self._begun and self._thread.is_alive():
            await self._pause()
        if self.failure is not None:
            raise self.failure

    async def unasked(self, session: Session) -> None:
        """What the server said unasked has arrived."""
        for _ in range(2000):
            if not session.usable:
                return
            await self._pause()
        raise AssertionError("nothing arrived")

    async def ended(self) -> None:
        """The client has closed, and said nothing more."""
        while self._thread.is_alive():
            await self._pause()
        if self.failure is not None:
            raise self.failure

    def _serve(self) -> None:
        try:
            with self._listener:
                self._socket, _ = self._listener.accept()
            self._socket.settimeout(PATIENCE)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wish = next(self._server)
            while True:
                wish = self._server.send(self._grant(wish))
        except StopIteration:
            pass
        except AssertionError as failure:
            self.failure = failure
        except OSError as error:
            self.failure = AssertionError(f"the server failed: {error!r}")
        finally:
            if hasattr(self, "_socket"):
                self._socket.close()

    def _grant(self, wish: Wish) -> bytes:
        match wish.kind:
            case "read":
                return self._read(wish)
            case "write":
                if wish.alone and (early := self._said()):
                    raise AssertionError(f"{wish.where}\n  the client did not wait for this, and said {early!r}")
                self._socket.sendall(wish.octets)
            case "rest":
                self._rested += 1
                while not self._turn.acquire(timeout=0.02):
                    said = self._said()
                    if said and not self._turn.acquire(blocking=False):
                        raise AssertionError(f"before {wish.where}\n  the client said {said!r}")
                    if said:
                        break
            case "<end>":
                self._socket.shutdown(socket.SHUT_WR)
            case "<reset>":
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self._socket.close()
            case "TLS <broken off>":
                self._socket.recv(65_536)  # the handshake has begun
                self._socket.shutdown(socket.SHUT_RDWR)
            case "TLS" | "TLS <untrusted>":
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(CERTIFICATE, CERTIFICATE.with_name("key.pem"))
                with suppress(OSError):
                    self._socket = context.wrap_socket(self._socket, server_side=True)
        return b""

    def _said(self) -> bytes:
        """What the client has said by now, left where it is; under TLS nobody knows."""
        if isinstance(self._socket, ssl.SSLSocket) or self._socket.fileno() < 0:
            return b""
        try:
            readable = select.select([self._socket], [], [], 0)[0]
            return self._socket.recv(200, socket.MSG_PEEK) if readable else b""
        except OSError:
            return b""

    def _read(self, wish: Wish) -> bytes:
        try:
            return self._socket.recv(wish.most)
        except TimeoutError:
            raise AssertionError(f"{wish.where}\n  the client said nothing for {PATIENCE} s") from None
        except OSError:
            return b""


# The client's side


class PureOpening(Opening):
    """An opening for which TLS is a marker."""

    async def _secure(self, stream: Stream) -> Stream:
        assert isinstance(stream, MemoryPeer)
        await stream.secure()
        return stream


class PureSession(Session):
    """A session that is opened so."""

    async def open(self, world: World, until: float | None, known: Known) -> Session:
        await PureOpening(self, world, until, known).perform()
        return self


async def play_in_memory(transcript: Transcript, *, by_octet: bool) -> None:
    """Play a transcript with no loop and no socket; never suspends."""
    peer = MemoryPeer(transcript, by_octet=by_octet)

    async def connect(target: Target, deadline: float | None) -> Stream:
        return peer

    await _play(transcript, peer, World(connect, run_inline, peer.now), PureSession, {})


async def play_over_socket(transcript: Transcript, world: World, pause: Callable[[], Awaitable[None]]) -> None:
    """Play a transcript over loopback, in a world whose ``connect`` is used whatever the URL says."""
    keywords: dict[str, Any] = {}
    if transcript.tls:
        keywords["tls_name"] = "localhost"
        if "TLS <untrusted>" not in transcript.tls:
            keywords["ssl_context"] = ssl.create_default_context(cafile=str(CERTIFICATE))
    with SocketPeer(transcript, pause) as peer:

        async def connect(target: Target, deadline: float | None) -> Stream:
            return await world.connect(Target("127.0.0.1", peer.port), deadline)

        await _play(transcript, peer, world._replace(connect=connect), Session, keywords)


async def _play(
    transcript: Transcript,
    peer: MemoryPeer | SocketPeer,
    world: World,
    kind: type[Session],
    keywords: dict[str, Any],
) -> None:
    session: Session | None = None
    try:
        for part in transcript.parts:
            peer.begin(unasked=part.act is None)
            found: list[str] = []
            try:
                if part.act is None:
                    assert session is not None
                    await peer.unasked(session)
                elif part.act.startswith("open"):
                    _, url, *more = part.act.split()
                    chosen: dict[str, Any] = {"hello": "client.example"}
                    chosen |= {name: value or None for name, _, value in (word.partition("=") for word in more)}
                    options = Options.of(url, **(chosen | keywords))
                    found = await _open(opening := kind(options, 1, Observers()), world)
                    session = opening if found == ["open"] else None
                else:
                    assert session is not None, "no session is open"
                    found = await _perform(part, session)
            except BaseException:
                if peer.failure is not None:
                    raise peer.failure from None
                raise
            await peer.part_ended()
            assert [*found, _state(session)] == part.results, part.act
    finally:
        if session is not None:
            session.abort(None)
    peer.begin()
    await peer.ended()


async def _open(session: Session, world: World) -> list[str]:
    try:
        await session.open(world, None, Known())
    except SMTPError as error:
        return [_told(error)]
    return ["open"]


async def _perform(part: Part, session: Session) -> list[str]:
    """Perform an act other than open; tell what came of it."""
    verb, _, text = (part.act or "").partition(" ")
    try:
        match verb:
            case "send":
                outcome, _ = await session.send(_mail(part, session.options), None, None)
                return list(_results(outcome))
            case "verify":
                return [f"reply {await session.perform(procedures.verify(text))}"]
            case "expand":
                return [f"members {', '.join(members(await session.perform(procedures.expand(text))))}"]
            case "noop":
                return [f"reply {await session.perform(procedures.noop())}"]
            case "command":
                return [f"reply {await session.perform(procedures.command(text))}"]
            case _:
                await session.close()
                return []
    except SMTPError as error:
        return [_told(error)]


def _mail(part: Part, options: Options) -> Prepared:
    """The mail of a send."""
    paths: list[ForwardPath] = []
    sender, given, unknown = "", {}, False
    for term in part.terms:
        word, text, *more = term.split()
        terms: dict[str, Any] = dict(each.split("=", 1) for each in more)
        if word == "from":
            sender, given = text.removeprefix("<>"), terms
        elif word == "to":
            notify = tuple(terms["notify"].split(",")) if "notify" in terms else ()
            paths.append(ForwardPath(text, options.on_refused == "stop", notify, terms.get("orcpt")))
        else:
            unknown = True
    utf8 = not (sender.isascii() and all(path.address.isascii() for path in paths))
    envelope = Envelope(sender, tuple(paths), utf8, given.get("ret"), given.get("envid"))
    data = MailData(lambda: part.mail, one_shot=True) if unknown else MailData.of(b"".join(part.mail))
    return Prepared(envelope, data, None, None)


def _results(outcome: Outcome) -> Iterator[str]:
    if outcome.accepted:
        yield f"accepted {', '.join(outcome.accepted)}"
    for path, reply in outcome.refused.items():
        yield f"refused {path}: {reply}"
    if outcome.in_doubt:
        yield f"in doubt {', '.join(outcome.in_doubt)}"
    if outcome.error is not None:
        yield _told(outcome.error)


def _told(error: SMTPError) -> str:
    text = f"error {type(error).__name__}"
    match error:
        case Refused(reply=reply):
            return f"{text} {reply}"
        case TimedOut(limit=word) | NotSupported(extension=word):
            return f"{text} {word}"
    return text


def _state(session: Session | None) -> str:
    if session is None or session._closed:
        return "closed"
    if session.channel.broken:
        return "broken"
    if not session.usable:
        return "unusable"
    return "in step, RSET leads the next" if session.left_open else "in step"
