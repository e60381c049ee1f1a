"""Where the mails of one ``send_many`` come from: its input, made ready, for all the sessions that work it off.

What cannot have been accepted when a session dies comes back here, and goes first.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from smtpkit.errors import InvalidMail, Outcome, SMTPError, UsageError
from smtpkit.message.message import Prepared, Runner, prepare
from smtpkit.options import Options
from smtpkit.session import outcome_of

if TYPE_CHECKING:
    from smtpkit.channel import Started


class Mail(NamedTuple):
    """A mail for ``send_many``: the message, and the envelope where it is not that of the header."""

    message: Any
    sender: str | None = None
    recipients: Any = None


def _mail(item: Any) -> Mail:
    """An item for what it is."""
    if not isinstance(item, tuple):
        return Mail(item)
    if not 1 <= len(item) <= len(Mail._fields):
        raise InvalidMail(f"a tuple of {len(item)}: give (message, sender, recipients), or one message")
    return Mail(*item)


class Nothing(Enum):
    """What a feed gives where it has no item."""

    YET = "none has come yet"
    MORE = "none will come"


class Feed(Protocol):
    """Where the items come from."""

    @property
    def ahead(self) -> bool:
        """Is there an item that would not have to be waited for?"""

    async def take(self, *, wait: bool) -> Any:
        """The next item, Nothing.MORE at the end; Nothing.YET if that had to be waited for and is not to be."""

    def rest(self) -> list[Any]:
        """The items at hand that nobody has taken; none are taken after that."""


class Iterated:
    """A feed from an iterable, which is read where the caller is."""

    ahead = True  # as far as anybody knows

    def __init__(self, messages: Iterable[Any]) -> None:
        if isinstance(messages, str | bytes | bytearray | memoryview):
            raise UsageError(f"messages: an iterable of messages, not {type(messages).__name__}")
        self._iterator = iter(messages)
        self._listed = isinstance(messages, list | tuple)

    async def take(self, *, wait: bool) -> Any:  # noqa: ARG002  reading may keep us, whatever is asked
        """As ``Feed`` has it."""
        return next(self._iterator, Nothing.MORE)

    def rest(self) -> list[Any]:
        """The rest of a list; another input stays where it is."""
        return list(self._iterator) if self._listed else []


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
    """A mail on its way: how often it was what a session was busy with when it died, and its transaction."""

    __slots__ = ("attempts", "begun", "item", "mail", "overlaps", "started")

    def __init__(self, item: Any, mail: Prepared) -> None:
        self.item = item
        self.mail = mail
        self.attempts = 0
        self.begun = 0.0
        self.overlaps = False
        self.started: Started[Outcome]


class Intake:
    """The mails of one ``send_many``. ``unsent`` holds the items that were taken from the feed in vain."""

    def __init__(self, feed: Feed, *, prepare: Callable[[Mail], Awaitable[Prepared]]) -> None:
        self.unsent: list[Any] = []
        self._feed = feed
        self._prepare = prepare
        self._again: deque[Entry] = deque()  # in the order in which they came
        self._dry = self._stopped = False
        self._fault: Exception | None = None

    @property
    def over(self) -> bool:
        """Is there nothing to be had, unless a mail comes back?"""
        return self._stopped or (self._dry and not self._again)

    @property
    def ahead(self) -> bool:
        """Is there a mail that would not have to be waited for?"""
        return not self.over and (bool(self._again) or self._feed.ahead)

    async def take(self, *, wait: bool) -> Entry | Outcome | None:
        """The next mail; the outcome of one that cannot be sent; None where there is none, or, unless ``wait``, yet."""
        if self.over:
            return None
        if self._again:
            return self._again.popleft()
        try:
            item = await self._feed.take(wait=wait)
        except Exception as fault:  # noqa: BLE001  the input's own, raised by ``end``
            self._fault = fault
            item = Nothing.MORE
        if item is Nothing.YET:
            return None
        if item is Nothing.MORE:
            self._dry = True
            return None
        try:
            entry = Entry(item, await self._prepare(_mail(item)))
        except SMTPError as error:
            return outcome_of(error, None, item)
        except BaseException:
            self.unsent.append(item)
            raise
        if self._stopped:  # meanwhile
            self._again.append(entry)
            return None
        return entry

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Take back what is to be sent again, in its order."""
        self._again.extendleft(reversed(list(entries)))

    def stop(self) -> None:
        """Hand out no more."""
        self._stopped = True

    def check(self) -> None:
        """Raise, once, what the input raised; after all that came before it is settled."""
        fault, self._fault = self._fault, None
        if fault is not None:
            raise fault

    def close(self) -> None:
        """List what was not sent, once all that was handed out is settled or put back."""
        self.unsent += [entry.item for entry in self._again]
        self._again.clear()
        self.unsent += self._feed.rest()
