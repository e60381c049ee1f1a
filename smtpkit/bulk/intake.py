"""Where the mails of one ``send_many`` come from: its input, made ready, for all the sessions that work it off.

What cannot have been accepted when a session dies comes back here, and goes first. Where a pace is to be kept, mails
whose turn has not come wait here, and do not hold up those to other domains.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpkit.bulk.feed import Feed, Nothing
from smtpkit.errors import ChannelLost, InvalidMail, Outcome, SMTPError
from smtpkit.message.message import Prepared, Runner, prepare
from smtpkit.observers import Observers
from smtpkit.options import Options
from smtpkit.pace import Pace
from smtpkit.protocol.recipients import merged
from smtpkit.session import NOTHING_YET, announce, outcome_of
from smtpkit.turns import Turn, Turns, domains_of

if TYPE_CHECKING:
    import anyio.abc

    from smtpkit.channel import Started


MOST_WAITING = 128  # mails that wait for their turn, before no more are taken
LOOK = 0.05  # seconds after which to look again, since other mails may have been settled


class Mail(NamedTuple):
    """A mail for ``send_many``: the message, and the envelope where it is not that of the header."""

    message: Any
    sender: str | None = None
    recipients: Any = None


def mail_of(item: Any) -> Mail:
    """An item for what it is. Raises InvalidMail."""
    if not isinstance(item, tuple):
        return Mail(item)
    if not 1 <= len(item) <= len(Mail._fields):
        raise InvalidMail(f"a tuple of {len(item)}: give (message, sender, recipients), or one message")
    return Mail(*item)


def prepared(mail: Mail, *, options: Options, run: Runner) -> Coroutine[Any, Any, Prepared]:
    """Make a mail ready to be sent, when it is awaited. Raises InvalidMail."""
    return prepare(
        mail.message,
        mail.sender,
        mail.recipients,
        newlines=options.newlines,
        on_refused=options.on_refused,
        run=run,
    )


class Entry:
    """A mail on its way, less the recipients that were served ``before``; its transaction is with a ``part`` of it.

    ``attempts``: how often it was what a session was busy with when it died. ``most``: how many recipients the server
    takes at once, as it has shown.
    """

    __slots__ = ("attempts", "before", "begun", "item", "mail", "most", "overlaps", "part", "started", "turn")

    def __init__(self, item: Any, mail: Prepared) -> None:
        self.item = item
        self.mail = self.part = mail
        self.before = NOTHING_YET
        self.most = inf
        self.turn: Turn | None = None  # where there is a pace to be kept
        self.attempts = 0
        self.begun = 0.0
        self.overlaps = False
        self.started: Started[Outcome]


class _Bell:
    """Rung when a mail's turn has come: it is ready then."""

    __slots__ = ("_entry", "_ready")

    def __init__(self, entry: Entry, ready: deque[Entry]) -> None:
        self._entry = entry
        self._ready = ready

    def set(self) -> None:
        """The turn was granted, or it is only told that it is the next."""
        if self._entry.turn is not None and self._entry.turn.granted:
            self._ready.append(self._entry)


class Intake:
    """The mails of one ``send_many``. ``unsent`` holds the items that were taken from the feed in vain.

    A mail that is handed out holds its turn until it is ``settled`` or ``put_back``. ``before``: whose turns, at the
    same pace, go before those of these mails. ``now`` and ``rest`` are those of the caller's world; ``rest`` waits for
    so many seconds.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        prepare: Callable[[Mail], Awaitable[Prepared]],
        pace: Pace,
        before: Turns | None = None,
        now: Callable[[], float],
        rest: Callable[[float], Awaitable[None]],
        observers: Observers,
    ) -> None:
        self.unsent: list[Any] = []
        self._feed = feed
        self._prepare = prepare
        self._turns = Turns(pace, inf, before) if pace else None
        self._now = now
        self._rest = rest
        self._observers = observers
        self._ready: deque[Entry] = deque()  # to be handed out
        self._waiting: dict[Entry, None] = {}  # for their turn
        self._dry = self._stopped = False
        self._fault: Exception | None = None

    @property
    def over(self) -> bool:
        """Is there nothing to be had, unless a mail comes back?"""
        return self._stopped or (self._dry and not self._ready and not self._waiting)

    @property
    def ahead(self) -> bool:
        """Is there a mail that would not have to be waited for, unless for its turn?"""
        return not self.over and (bool(self._ready or self._waiting) or self._feed.ahead)

    @property
    def paced(self) -> bool:
        """Are there mails whose turn will come by itself?"""
        return bool(self._waiting) and not self._stopped

    async def take(self, *, wait: bool) -> Entry | Outcome | None:
        """The next mail; the outcome of one that cannot be sent; None where there is none, or, unless ``wait``, yet."""
        while not self.over:
            if self._waiting and self._turns is not None:
                self._turns.grant(self._now())
            if self._ready:
                entry = self._ready.popleft()
                self._waiting.pop(entry, None)
                return entry
            if not self._dry and (self._turns is None or self._turns.has_room(MOST_WAITING, self._now())):
                taken = await self._read(wait=wait and not self._waiting)
                if isinstance(taken, Entry) and self._turns is not None:
                    self._enter(taken, self._turns)
                    continue
                if taken is not None:
                    return taken
            if not (wait and self._waiting and self._turns is not None):
                break
            await self._rest(min(max(self._turns.next - self._now(), 0.0), LOOK))
        return None

    def begins(self, entry: Entry) -> bool:
        """May a mail that was handed out begin now? Else it was late, and waits for its next turn."""
        if self._turns is None or entry.turn is None or self._turns.begins(entry.turn, self._now()):
            return True
        self._waiting[entry] = None
        return False

    def settled(self, entry: Entry, outcome: Outcome) -> None:
        """A mail that was handed out is settled."""
        if self._turns is not None and entry.turn is not None:
            self._turns.leave(entry.turn, outcome, self._now())

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Take back what is to be sent again, in its order."""
        back = list(entries)
        if self._turns is None:
            self._ready.extendleft(reversed(back))
            return
        for entry in back:
            if entry.turn is not None:
                self._turns.leave(entry.turn, None, self._now())
            self._enter(entry, self._turns)

    def begin(self, tasks: "anyio.abc.TaskGroup") -> None:
        """Begin to read, where that needs a task."""
        self._feed.begin(tasks)

    def stop(self) -> None:
        """Hand out no more, and read no more."""
        self._stopped = True
        self._feed.stop()

    def check(self) -> None:
        """Raise, once, what the input raised; after all that came before it is settled."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def close(self) -> list[Outcome]:
        """List what was not sent, once all that was handed out is settled or put back.

        Returns the outcomes of mails that some of their recipients have, and the others were to get next.
        """
        halves = []
        for entry in dict.fromkeys((*self._ready, *self._waiting)):
            if self._turns is not None and entry.turn is not None:
                self._turns.leave(entry.turn, None, self._now())
            if entry.before is NOTHING_YET:
                self.unsent.append(entry.item)
                continue
            why = ChannelLost("given up before all recipients were named")
            outcome = merged(entry.mail.envelope, entry.before, outcome_of(why, entry.mail, entry.item))
            if self._observers.heard:
                announce(self._observers, outcome, session=0, at=self._now())
            halves.append(outcome)
        if self._turns is not None:
            self._turns.close()
        self._ready.clear()
        self._waiting.clear()
        self.unsent += self._feed.rest()
        return halves

    def _enter(self, entry: Entry, turns: Turns) -> None:
        """Let a mail stand in line."""
        entry.turn = Turn(domains_of(entry.mail.envelope))
        entry.turn.bell = _Bell(entry, self._ready)
        self._waiting[entry] = None
        turns.enter(entry.turn, self._now())

    async def _read(self, *, wait: bool) -> Entry | Outcome | None:
        """The next mail of the feed."""
        try:
            item = await self._feed.take(wait=wait)
        except Exception as fault:  # noqa: BLE001  the input's own, raised by ``check``
            self._fault = fault
            item = Nothing.MORE
        if item is Nothing.YET:
            return None
        if item is Nothing.MORE:
            self._dry = True
            return None
        try:
            entry = Entry(item, await self._prepare(mail_of(item)))
        except SMTPError as error:
            return outcome_of(error, None, item)
        except BaseException:
            self.unsent.append(item)
            raise
        if self._stopped:  # meanwhile
            self._ready.append(entry)
            return None
        return entry
