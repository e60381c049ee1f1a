"""The channel: performs the steps of procedures over a stream, under limits, and tells what happens.

Rules: it decides nothing and knows no reply code. Replies belong to the oldest procedure that still hears. What is said
is gathered, and written when a reply is needed and none is at hand. The channel is ``broken`` from ``start`` until
every procedure has returned and nothing is owed; cancellation, a limit, a lost stream or a fault leave it so.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from copy import copy
from math import inf
from typing import Any, Generic, TypeVar

from smtpkit.errors import ChannelLost, InvalidMail, ProtocolViolation, ServiceClosing, SMTPError, TimedOut
from smtpkit.events import CommandSent, Event, ReplyReceived, TransferEnded, TransferProgress, TransferStarted
from smtpkit.observers import Observers
from smtpkit.options import Limits
from smtpkit.protocol.command import Bdat, Command, EndMark
from smtpkit.protocol.mail_data import END_MARK, Transparency
from smtpkit.protocol.reply import ROOMY, USUAL, MalformedReply, Reply, ReplyReader
from smtpkit.protocol.steps import Hear, Lost, Pass, Procedure, Say, Secure, Transfer, Transferred
from smtpkit.telling import Telling
from smtpkit.throttle import Throttle
from smtpkit.transport.stream import Stream

T = TypeVar("T")
GATHER = 32_768  # octets gathered before they are written without need: a far server waits for the first of them
FOLLOWED = 65_536  # octets of mail data from one progress to the next
PIECE = 131_072  # octets of mail data looked through and written at once where nobody follows its progress
UNTOUCHED = 262_144  # of those that go out as they come
GRACE = 10.0  # seconds of writing mail data before ``least_rate`` holds
END = EndMark()
UNASKED = "the server spoke without being asked"
LAST_WORDS = 1.0  # seconds given to the server's last words after a failed write


class Started(Generic[T]):
    """A procedure under way. ``passed``: the next one may speak. ``ended``: ``result`` or ``error`` is set."""

    __slots__ = ("end", "ended", "error", "heard", "item", "passed", "procedure", "result", "step")

    def __init__(self, procedure: Procedure[T], item: object) -> None:
        self.procedure = procedure
        self.item = item
        self.step: Any = None  # the one it waits at
        self.passed = self.ended = False
        self.heard = 0  # replies
        self.end = 0.0  # where its last octet stands in all that was said; inf while its mail data is half said
        self.result: T
        self.error: BaseException | None = None


# A reply that the server owes: to which command, of which procedure, and where that command ends in all that was said.
Owed = tuple[Command, Started[Any], float]


class Channel:
    """Performs procedures over a stream. ``secure`` makes a TLS stream of a plain one, for the step of that name.

    ``limits`` may be set anew between calls. Mail data keeps to all ``throttles``; ``least_rate`` is how many octets of
    it a second the peer has to take on average, not counting what is waited for on our side. ``reply_line`` is the most
    octets in a line of a reply, where that is less than the command allows; ``known`` replies need not be read anew.
    """

    def __init__(
        self,
        stream: Stream,
        limits: Limits,
        *,
        secure: Callable[[Stream], Awaitable[Stream]] | None = None,
        throttles: Sequence[Throttle] = (),
        least_rate: float | None = None,
        observers: Observers | None = None,
        session: int = 0,
        reply_line: int | None = None,
        known: dict[bytes, Reply] | None = None,
    ) -> None:
        self.stream = stream
        self.limits = limits
        self.secured = False
        self.outer: tuple[float, str] | None = None  # a limit around all waits: until when, and its name
        self._secure = secure
        self._throttles = throttles
        self._least_rate = least_rate
        self._writing = 0.0  # seconds for which mail data under way was being written
        self._observers = observers or Observers()
        self._session = session
        self._reply_line = reply_line
        self._reader = ReplyReader(reply_line, known)
        self._early: list[Reply] = []  # heard before it was asked for
        self._queue: deque[Started[Any]] = deque()
        self._owed: deque[Owed] = deque()
        self._out: list[bytes] = []
        self._said = self._spoken = 0  # octets gathered, and octets taken by the system, since the beginning
        self._untold: list[tuple[type[Event], dict[str, Any]]] = []  # told once what is gathered is written
        self._cause: SMTPError | None = None  # for which it was abandoned
        self._looked = False  # nothing had arrived a moment ago, and nothing was waited for since
        self._limit = "timeout"
        self._begun = 0.0  # when the mail data under way began

    @property
    def broken(self) -> bool:
        """Is the session out of step, or over?"""
        return self.over or bool(self._queue) or bool(self._owed)

    @property
    def over(self) -> bool:
        """Has it been abandoned, and every procedure with it?"""
        return self._cause is not None

    @property
    def idle(self) -> bool:
        """Is it at rest: in step, nothing received that was not asked for, the stream not ended?"""
        self._looked = False
        try:
            return not (self.broken or self._has_arrived())  # what has arrived is kept: it may be a 421
        except ChannelLost:
            return False

    async def perform(self, procedure: Procedure[T], item: object = None) -> T:
        """Start a procedure and finish it."""
        started = Started(procedure, item)
        await self.start(started)
        return await self.finish(started)

    async def start(self, started: Started[Any]) -> None:
        """Run a procedure until it must hear what is not at hand, or ends; wait only for the newest to pass."""
        try:
            while self._queue and not self._queue[-1].passed:
                await self._give()
            self._queue.append(started)
            if self._cause is not None:
                raise copy(self._cause)
            await self._run(started, None)
        except BaseException as error:  # noqa: BLE001  as in see_out
            if not (started.ended or started in self._queue):
                self._queue.append(started)
            self._fail(error)

    async def finish(self, started: Started[T]) -> T:
        """Give replies to the oldest until this one has ended. Returns what it returned, raises what it raised."""
        await self.see_out(started)
        if started.error is not None:
            raise started.error
        return started.result

    async def see_out(self, started: Started[Any]) -> None:
        """The same, but what it raised is left in ``error``."""
        while not started.ended:
            try:
                await self._give()
            except BaseException as error:  # noqa: BLE001  _fail raises it again, unless the procedures take it in
                self._fail(error)

    async def flush(self) -> None:
        """Write what was gathered, without waiting for a reply. What goes wrong is told to the procedures."""
        try:
            await self._flush()
        except BaseException as error:  # noqa: BLE001  as in see_out
            self._fail(error)

    def abandon(self, cause: SMTPError) -> None:
        """End what is left, without waiting: hand out the replies at hand, then throw Lost, oldest first."""
        others = cause
        if isinstance(cause, InvalidMail):  # the fault of the one mail that was being told
            others = ChannelLost(f"the session ended with another mail: {cause}")
        if not self.over:
            self._cause = others
            with suppress(ChannelLost):
                self._reader.feed(self.stream.at_hand() or b"")
        self.stream.abort()
        while self._queue:
            started = self._queue[0]
            why = others if started.step is None or type(started.step) is Hear else cause
            try:
                while type(started.step) is Hear and (heard := self._hear_at_last(started)):
                    started.step = started.procedure.send(heard)
                    if type(started.step) is not Hear:
                        started.end = inf  # what it would say now is never said
                lost = Lost(why, spoken=started.end <= self._spoken, last_words=self._last_words(started))
                started.procedure.throw(lost)
            except Exception as how:  # noqa: BLE001  raised by finish
                self._end(started, how)
            else:
                self._end(started, why)
            if (closing := _closing(started.error)) is not None:
                cause = others = closing

    def _forget_replies(self) -> None:
        """The server is out of step: what follows is no verdict on anything."""
        self._reader, self._early = ReplyReader(self._reply_line), []

    def _fail(self, error: BaseException) -> None:
        """Abandon for what went wrong; raise it again unless the procedures have taken it in."""
        match error:
            case SMTPError():
                self.abandon(error)
            case TimeoutError():
                self.abandon(TimedOut(f"the {self._limit} limit ran out", limit=self._limit))
            case MalformedReply():
                violation = ProtocolViolation(str(error))
                violation.__cause__ = error
                self._forget_replies()
                self._cause = violation
                self.abandon(violation)
            case _:
                self.abandon(ChannelLost(f"given up ({type(error).__name__})"))
                raise error

    async def _give(self) -> None:
        """Give the oldest what it waits to hear."""
        oldest = self._queue[0]
        heard = self._hear(oldest)
        if heard is None:
            await self._flush()
            self._set_deadline(self._owed[0][0].limit)
        while heard is None:
            octets = await self.stream.receive()
            if not octets:
                raise ChannelLost("the server closed the connection")
            self._looked = False
            self._reader.feed(octets)
            heard = self._hear(oldest)
        await self._run(oldest, heard)

    async def _run(self, started: Started[Any], value: object) -> None:
        """Perform the steps of a procedure until it must hear what is not at hand, or ends."""
        step: Any
        resume = started.procedure.send
        while True:
            try:
                step = started.step = resume(value)
            except Exception as error:  # noqa: BLE001  raised by finish
                closed = len(self._queue) > 1 and _closing(error) is not None and await self._hear_last_words()
                self._end(started, error, closed=closed)
                return
            value, kind = None, type(step)
            if kind is Hear:
                value = self._hear(started)
                if value is None:
                    return
            elif kind is Say:
                self._say(step.commands, started)
                if self._said - self._spoken >= GATHER:
                    await self._flush()
            elif kind is Transfer:
                value = await self._transfer(step, started)
            elif kind is Pass:
                started.passed = True
            elif kind is Secure:
                await self._begin_tls()
            else:
                value = await self.stream.run(step.function)
                self._looked = False

    def _end(self, started: Started[Any], how: Exception, *, closed: bool = False) -> None:
        """Note how a procedure ended: StopIteration with its result, or an error.

        ``closed``: the server has said by it that it closes, and has closed: it has taken nothing that it has not
        answered (RFC 5321 section 3.8).
        """
        if isinstance(how, StopIteration):
            started.result = how.value
        else:
            started.error = how.verdict if isinstance(how, Lost) else how
        started.ended = started.passed = True
        self._queue.remove(started)
        # Only the oldest has heard, only the newest has spoken: what it is owed is the first of all, or the last.
        owed = self._owed
        if started.error is None and not (owed and (owed[0][1] is started or owed[-1][1] is started)):
            return
        started.procedure.close()
        if not self.over:
            earlier = ChannelLost(f"the session ended with an earlier procedure: {started.error}")
            if any(isinstance(why, ProtocolViolation) for why in (how, how.__cause__)):
                self._forget_replies()
                self._cause = earlier
            self.abandon((closed and _closing(started.error)) or earlier)

    def _say(self, commands: tuple[Command, ...], started: Started[Any]) -> None:
        said, out, owed, heard = self._said, self._out, self._owed, self._observers.heard
        for command in commands:
            octets = command.render()
            out.append(octets)
            said += len(octets)
            owed.append((command, started, said))
            if heard and octets:
                self._tell(CommandSent, started, text=str(command), secured=self.secured)
        self._said = started.end = said

    def _tell(self, kind: type[Event], started: Started[Any], **what: Any) -> None:
        """Keep what to tell until what is gathered is written: an event never runs ahead of its octets."""
        self._untold.append((kind, {"item": started.item, **what}))

    def _hear(self, started: Started[Any]) -> Reply | list[Reply] | None:
        """What has arrived of that which a procedure waits to hear."""
        owed, spoken = self._owed, self._spoken
        if not owed:
            raise RuntimeError("a procedure hears what nobody owes")
        if owed[0][2] > spoken:
            return None
        early, heard, most = self._early, self._observers.heard, started.step.most
        replies: list[Reply] = []
        try:
            while owed:
                command, whose, end = owed[0]
                if end > spoken or whose is not started:
                    break
                reply = early.pop(0) if early else self._reader.next(command.replies)
                if reply is None:
                    break
                owed.popleft()
                if heard:
                    self._tell_reply(command.show(reply), started)
                replies.append(reply)
                if len(replies) >= most or reply.closing:
                    break
        except MalformedReply:
            if not replies:  # else it is malformed again when it is the first to be heard
                raise
        started.heard += len(replies)
        return (replies if most else replies[0]) if replies else None

    def _tell_reply(self, reply: Reply, started: Started[Any]) -> None:
        at, session, item = self.stream.now(), self._session, started.item
        self._observers.emit(ReplyReceived(at=at, session=session, item=item, reply=reply, secured=self.secured))

    async def _flush(self) -> None:
        """Write what was gathered; where nothing is owed for what was written before, nothing may have arrived."""
        if self._said > self._spoken:
            if self._owed and self._owed[0][2] > self._spoken and self._has_arrived():
                raise ProtocolViolation(UNASKED)
            await self._write()

    def _has_arrived(self) -> bool:
        """Has anything arrived that no reply was made of? Takes it in. Raises ChannelLost at the end of the stream."""
        if not self._looked:
            arrived = self.stream.at_hand()
            if arrived:
                self._reader.feed(arrived)
            elif arrived is not None and not self._reader.pending:
                raise ChannelLost("the server closed the connection")
            self._looked = True
        return self._reader.pending

    async def _write(self) -> None:
        octets = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._looked = False
        self._set_deadline("timeout")
        self._spoken = self._said  # from here on it may be, whatever interrupts us
        try:
            await self.stream.send(octets)
        except ChannelLost:
            self._spoken = self._said - self.stream.untaken
            await self._hear_last_words()
            raise
        except BaseException:
            self._spoken = self._said - self.stream.untaken
            raise
        if self._untold:
            untold, self._untold = self._untold, []
            for kind, what in untold:
                self._observers.emit(kind(at=self.stream.now(), session=self._session, **what))

    async def _hear_last_words(self) -> bool:
        """Read, for a short while and no more than a reply may have, what the server still says. Has it ended then?"""
        self.stream.deadline, heard = self.stream.now() + LAST_WORDS, 0
        try:
            while octets := await self.stream.receive():
                self._reader.feed(octets)
                heard += len(octets)
                if heard > ROOMY.octets:
                    return False
        except TimeoutError:
            return False
        except ChannelLost:
            pass
        return True

    def _hear_at_last(self, started: Started[Any]) -> Reply | list[Reply] | None:
        """What has arrived of that which a procedure waits to hear, past replies to procedures that have ended."""
        try:
            while self._owed and self._owed[0][1].ended:
                if self._arrived(self._owed[0][0]) is None:
                    return None
                self._owed.popleft()
            return self._hear(started)
        except MalformedReply:
            self._forget_replies()
        except RuntimeError:
            pass
        return None

    def _arrived(self, command: Command | None = None) -> Reply | None:
        """The next reply that has arrived, to this command."""
        return self._early.pop(0) if self._early else self._reader.next(command.replies if command else USUAL)

    def _last_words(self, started: Started[Any]) -> tuple[Reply, ...]:
        """The replies that arrived beyond all that is owed for what was spoken, and those to its own mail data."""
        words = []
        with suppress(MalformedReply):
            while not (asked := bool(self._owed) and self._owed[0][2] <= self._spoken) or self._owed[0][1] is started:
                reply = self._arrived()
                if reply is None:
                    break
                if not asked or isinstance(self._owed.popleft()[0], Bdat):
                    words.append(reply)
        return tuple(words)

    def _set_deadline(self, limit: str) -> None:
        when = self.stream.now() + getattr(self.limits, limit)
        if self.outer is not None and self.outer[0] < when:
            when, limit = self.outer
        self.stream.deadline, self._limit = (when if when < inf else None), limit

    async def _begin_tls(self) -> None:
        """TLS begins exactly behind the reply: an octet more may be anybody's (RFC 3207 section 6)."""
        if self._secure is None:
            raise RuntimeError("this channel has no way to begin TLS")
        self._looked = False
        if self._owed or self._has_arrived():
            raise ProtocolViolation("octets arrived in clear after the reply to STARTTLS: injected, or a broken server")
        self._set_deadline("connect")
        self.stream = await self._secure(self.stream)
        self._reader = ReplyReader(self._reply_line)
        self.secured = True

    async def _transfer(self, step: Transfer, started: Started[Any]) -> Transferred:
        """Send the mail data, piece by piece; stop where the server answers before its end."""
        data = step.mail_data
        chunks = step.chunked and data.size is None
        piece = UNTOUCHED if data.wire_safe else PIECE
        if chunks or self._observers.heard:
            piece = FOLLOWED
        if self._throttles:
            piece = min([throttle.piece for throttle in self._throttles])
        telling = Telling(data, piece, self.stream.run)
        self._writing = 0.0
        if self._observers.heard:
            self._begun = self.stream.now()
            self._tell(TransferStarted, started, size=data.size)
        started.end = inf
        form = self._transfer_in_chunks if chunks else self._transfer_whole
        try:
            transferred = await form(step, telling, started)
        finally:
            if not telling.ended:
                await telling.aclose()
        if transferred.whole:
            started.end = self._said
            for _ in range(step.due - 1):
                self._owed.append((END, started, self._said))
            if self._observers.heard:
                self._tell(TransferEnded, started, done=telling.done, took=self.stream.now() - self._begun)
        return transferred

    async def _transfer_whole(self, step: Transfer, telling: Telling, started: Started[Any]) -> Transferred:
        """In DATA form, or as one BDAT."""
        size = step.mail_data.size or 0
        transparency = None if step.chunked or step.mail_data.wire_safe else Transparency()
        if step.chunked:
            self._say((Bdat(size, last=True),), started)
            self._mark(inf)
            started.end = inf
        else:
            self._owed.append((END, started, inf))
        while not telling.ended:
            piece = await telling.next()
            self._looked = self._looked and telling.at_once
            if len(self._owed) == 1 and self._has_arrived():
                self._mark(self._spoken)
                return Transferred(1, whole=False, in_step=False)
            if step.chunked and (telling.done > size or (telling.ended and telling.done < size)):
                raise InvalidMail(f"mail data: its source gave {telling.done} octets, not {size} as before")
            await self._put(piece if transparency is None else transparency.double(piece), telling, started)
        if not step.chunked:
            self._out.append(END_MARK)
            self._said += len(END_MARK)
        self._mark(self._said)
        return Transferred(step.due)

    async def _transfer_in_chunks(self, step: Transfer, telling: Telling, started: Started[Any]) -> Transferred:
        """As a BDAT for each piece, since the size of the whole is not known."""
        chunks = 0
        while not telling.ended:
            piece = await telling.next()
            self._looked = self._looked and telling.at_once
            if self._refused_early():
                return Transferred(chunks, whole=False)
            self._say((Bdat(len(piece), telling.ended),), started)
            chunks += 1
            started.end = inf
            self._mark(self._said + len(piece))
            await self._put(piece, telling, started)
        return Transferred(chunks + step.due - 1)

    async def _put(self, piece: bytes, telling: Telling, started: Started[Any]) -> None:
        """Put a piece of mail data into what is gathered, which is written behind all but the last."""
        self._out.append(piece)
        self._said += len(piece)
        if self._throttles:
            now = self.stream.now()
            await self._pause(max([throttle.take(len(piece), now) for throttle in self._throttles]))
            self._looked = False
        if self._observers.heard:
            took, done = self.stream.now() - self._begun, telling.done
            rate = done / took if took else 0.0
            self._tell(TransferProgress, started, done=done, size=telling.size, rate=rate)
        if not telling.ended:
            await (self._write() if self._least_rate is None else self._write_at(self._least_rate, telling.done))

    async def _write_at(self, least: float, done: int) -> None:
        """Write mail data, so many octets by now; the time that all the writes take is what ``least`` allows."""
        began, outer = self.stream.now(), self.outer
        by = began + GRACE + done / least - self._writing
        if outer is None or by < outer[0]:
            self.outer = by, "least_rate"
        try:
            await self._write()
        finally:
            self.outer = outer
        self._writing += self.stream.now() - began

    async def _pause(self, until: float) -> None:
        """Sleep, outside of all limits but the one around them."""
        if self.outer is None or until <= self.outer[0]:
            await self.stream.sleep_until(until)
            return
        until, self._limit = self.outer
        await self.stream.sleep_until(until)
        raise TimeoutError

    def _mark(self, end: float) -> None:
        """Note where what the last reply is owed for ends."""
        command, started, _ = self._owed[-1]
        self._owed[-1] = (command, started, end)

    def _refused_early(self) -> bool:
        """Has the server refused a chunk already? Keeps the replies that came until they are asked for."""
        while self._has_arrived():
            if len(self._early) == len(self._owed):
                raise ProtocolViolation(UNASKED)
            if (reply := self._reader.next()) is None:
                break
            self._early.append(reply)
            if reply.negative:
                return True
        return False


def _closing(error: BaseException | None) -> ServiceClosing | None:
    """That the server leaves, if a procedure has heard it."""
    found = error if isinstance(error, ServiceClosing) or error is None else error.__cause__
    return found if isinstance(found, ServiceClosing) else None
