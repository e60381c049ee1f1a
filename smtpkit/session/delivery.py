"""One mail by a session of a client, over as many as it takes; and what a transaction that ended means."""

from collections.abc import Awaitable, Callable, Coroutine
from copy import copy
from typing import TYPE_CHECKING, Any

from smtpkit.channel import Started
from smtpkit.errors import ChannelLost, Outcome, Refused, ServiceClosing, SMTPError
from smtpkit.events import RecipientRefused, Settled
from smtpkit.observers import Observers
from smtpkit.protocol.recipients import merged
from smtpkit.protocol.reply import Reply

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from smtpkit.message.message import Prepared
    from smtpkit.session import Session

NOTHING_YET = Outcome()  # has come of a mail


def outcome_of(error: SMTPError, mail: "Prepared | None", item: object) -> Outcome:
    """The outcome of a mail of which nothing was said."""
    error.outcome = Outcome(message_id=mail.message_id if mail else None, item=item, error=error)
    return error.outcome


def settled(started: Started[Outcome], mail: "Prepared") -> Outcome:
    """What a transaction that ended means, however it ended."""
    error = started.error
    if error is None:
        return started.result
    if not isinstance(error, SMTPError):
        raise error
    if started.step is None:  # it never began, so that this is the error of others
        return outcome_of(copy(error), mail, started.item)
    return error.outcome or outcome_of(error, mail, started.item)


def unheard(started: Started[Outcome], outcome: Outcome) -> bool:
    """Had the server not answered a word of it, unless that it leaves?"""
    return started.heard <= isinstance(outcome.error, ServiceClosing)


def announce(observers: Observers, outcome: Outcome, *, session: int, at: float) -> None:
    """Tell what became of a mail."""
    for path, reply in outcome.refused.items():
        observers.emit(RecipientRefused(at=at, session=session, item=outcome.item, path=path, reply=reply))
    observers.emit(Settled(at=at, session=session, item=outcome.item, outcome=outcome))


class Lease:
    """A session for the time of a block, by what takes it and what gives it back.

    A plain class: a generator for it costs four times as much.
    """

    __slots__ = ("_give_back", "_take")

    def __init__(self, take: Callable[[], "Coroutine[Any, Any, Session]"], give_back: Callable[[], None]) -> None:
        self._take = take
        self._give_back = give_back

    def __aenter__(self) -> "Coroutine[Any, Any, Session]":
        return self._take()

    async def __aexit__(self, *_: object) -> None:
        self._give_back()


def members(reply: Reply) -> tuple[str, ...]:
    """The members that a reply to EXPN lists. Raises Refused."""
    if reply.negative:
        raise Refused(reply, "EXPN")
    return reply.lines


async def deliver(
    message: object,
    preparing: Awaitable["Prepared"],
    lease: Callable[[], "AbstractAsyncContextManager[Session]"],
    observers: Observers,
    until: float | None,
) -> Outcome:
    """Send one mail by a session of a client, and tell what became of it.

    A session that was used before may have ended unnoticed: where it is lost before the server answered a word, nothing
    was begun, and the mail goes by another; so does the rest of one for more recipients than a session takes.
    """
    outcome, left, number, at = NOTHING_YET, None, 0, 0.0
    sending = False
    try:
        left = await preparing
        while left is not None:
            async with lease() as session:
                sending = True
                outcome, left = await session.send(left, message, until, outcome)
                sending = False
    except SMTPError as error:
        ended = outcome_of(error, left, message)
        outcome = merged(left.envelope, outcome, ended) if left is not None else ended
    except BaseException:
        if left is not None and (outcome.accepted or outcome.refused) and not sending:  # else the session has told
            lost = Outcome(item=message, error=ChannelLost("given up before all of its recipients were said"))
            announce(observers, merged(left.envelope, outcome, lost), session=0, at=0.0)
        raise
    else:
        number, at = session.number, session.channel.stream.now()
    if observers.heard:
        announce(observers, outcome, session=number, at=at)
    if outcome.error is not None:
        raise outcome.error
    return outcome
