"""One session with one server, from the greeting to QUIT: the only place where transport, channel and procedures meet.

Everything here awaits only a stream, so it runs alike on asyncio, on trio and in a blocking caller's thread.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from smtpkit.channel import Channel, Started
from smtpkit.errors import ChannelLost, NotSupported, Outcome, SenderRefused, ServiceClosing, SMTPError
from smtpkit.events import Connected, Event, SessionClosed, Settled
from smtpkit.observers import Observers
from smtpkit.options import Options
from smtpkit.protocol import procedures
from smtpkit.protocol.command import Verb
from smtpkit.protocol.extension import NOTHING, Extensions
from smtpkit.protocol.recipients import domain, first, merged, rest, taken
from smtpkit.protocol.steps import Procedure
from smtpkit.session.delivery import NOTHING_YET, Lease, announce, deliver, members, outcome_of, settled, unheard
from smtpkit.session.known import Known, Report, World
from smtpkit.session.opening import Opening
from smtpkit.throttle import Throttle
from smtpkit.transport.stream import Stream

if TYPE_CHECKING:
    from smtpkit.message.message import Prepared
    from smtpkit.protocol.reply import Reply

T = TypeVar("T")
MOST_REFUSALS = 2  # of MAIL in a row, after which another session is tried

__all__ = (
    "NOTHING_YET",
    "Known",
    "Lease",
    "Report",
    "Session",
    "World",
    "announce",
    "deliver",
    "members",
    "outcome_of",
    "settled",
    "unheard",
)


class Session:
    """An open session. ``uses`` counts what it was used for; ``channel.broken`` says that it must not be used again.

    ``began`` is when it was opened, on ``World.now``'s clock.
    """

    channel: Channel

    def __init__(self, options: Options, number: int, observers: Observers, throttle: Throttle | None = None) -> None:
        self.options = options
        self.number = number
        self.uses = 0
        self.began = 0.0
        self.greeting: Reply
        self.offered: Extensions = NOTHING
        self.mechanism: str | None = None  # the one that logged in
        self.times: dict[str, float] = {}  # of each stage of opening, in seconds
        self._observers = observers
        self._throttles = [] if throttle is None else [throttle]  # shared by the sessions of a client
        if options.session_rate is not None:
            self._throttles.append(Throttle(options.session_rate))
        self.left_open = False  # a transaction was left open: RSET leads the next
        self._mails = 0  # MAIL said, which MAILMAX counts
        self._refusals = 0  # of MAIL in a row
        self._named: set[str] = set()  # domains of forward-paths, which RCPTDOMAINMAX counts
        self._turned_away = False  # a mail, since the session has named too many domains
        self._closed = False

    async def open(self, world: World, until: float | None, known: Known) -> "Session":
        """Connect, and lead the session to where mail can be sent: greeting, EHLO, TLS, AUTH, as the options ask.

        ``until`` is the total limit; ``known`` is shared by the sessions of a client. Raises SMTPError, and leaves
        nothing open.
        """
        await Opening(self, world, until, known).perform()
        return self

    def begin(self, stream: Stream, secure: Callable[[Stream], Awaitable[Stream]], known: Known) -> None:
        """The connection stands: whatever is said goes over it. ``secure`` begins TLS."""
        self._closed = False
        self.channel = Channel(
            stream,
            self.options.limits,
            secure=secure,
            throttles=self._throttles,
            least_rate=self.options.least_rate,
            observers=self._observers,
            session=self.number,
            reply_line=self.options.reply_line,
            known=known.replies,
        )
        self.tell(Connected, server=self.options.shown, address=stream.peer)

    @property
    def report(self) -> Report:
        """What the server showed."""
        stream = self.channel.stream
        return Report(
            server=self.options.shown,
            address=stream.peer,
            greeting=self.greeting.text,
            extensions=dict(self.offered.keywords),
            tls_version=getattr(stream, "version", None),
            cipher=getattr(stream, "cipher", None),
            verified=getattr(stream, "verified", False),
            resumed=getattr(stream, "resumed", False),
            certificate=getattr(stream, "certificate", None),
            pins=getattr(stream, "pins", ()),
            mechanisms=self.offered.mechanisms,
            mechanism=self.mechanism,
            times=dict(self.times),
        )

    @property
    def usable(self) -> bool:
        """In step, and nothing has arrived since that was not asked for."""
        return self.channel.idle

    @property
    def broken(self) -> bool:
        """Out of step, or over."""
        return self.channel.broken

    @property
    def spent(self) -> bool:
        """Shall no further mail begin here?

        The server takes no more MAIL in a session (MAILMAX, RFC 9422), or no further domain; or it has refused MAIL so
        often in a row that a session of its own may be what the next mail needs.
        """
        if self._refusals >= MOST_REFUSALS or self._turned_away:
            return True
        return bool(self.offered.limits) and self._mails >= self.offered.limits.get("MAILMAX", inf)

    async def perform(self, procedure: Procedure[T], until: float | None = None) -> T:
        """Perform a procedure under the total limit."""
        self.uses += 1
        self.channel.outer = (until, "total") if until is not None else None
        return await self.channel.perform(procedure)

    async def send(
        self, mail: "Prepared", item: object, until: float | None, before: Outcome = NOTHING_YET
    ) -> tuple[Outcome, "Prepared | None"]:
        """A mail, in as many transactions as the server's limits make of it.

        Returns what has come of it, and what is left for another session: what this session's limits leave, or all of
        it where nothing was begun, since this session was used before and ended unnoticed. ``before`` is what had come
        of it by then. Raises only what comes from outside (cancellation), after telling what is known.
        """
        one_shot, most = mail.mail_data.one_shot, inf
        while True:
            try:
                part = self.part(mail, most)
            except NotSupported as error:
                return merged(mail.envelope, before, outcome_of(error, mail, item)), None
            if part is None or (before is not NOTHING_YET and self.spent):
                return before, mail
            fresh = self.uses == 0
            outcome, silent = await self.transact(part, item, until, before=before)
            if silent and not fresh and isinstance(outcome.error, ChannelLost | ServiceClosing):
                return merged(mail.envelope, before, outcome), mail
            left = None
            if part is not mail or outcome.refused:
                left = rest(mail.envelope, part.envelope, outcome, one_shot=one_shot)
            if part is mail and left is None and before is NOTHING_YET:
                return outcome, None
            before, most = merged(mail.envelope, before, outcome), min(most, taken(part.envelope, outcome))
            if left is None:
                return before, None
            mail = replace(mail, envelope=left)
            if self.broken:
                return before, mail

    def part(self, mail: "Prepared", most: float) -> "Prepared | None":
        """What goes in the next transaction; None if nothing can in this session. Raises NotSupported."""
        if most == inf and not self.offered.limits:
            return mail
        one_shot = mail.mail_data.one_shot
        envelope = first(mail.envelope, self.offered, one_shot=one_shot, named=self._named, most=most)
        self._turned_away = envelope is None
        if envelope is None or envelope is mail.envelope:
            return mail if envelope else None
        return replace(mail, envelope=envelope)

    async def transact(
        self,
        mail: "Prepared",
        item: object,
        until: float | None,
        *,
        verb: Verb = "MAIL",
        reset: bool = False,
        before: Outcome = NOTHING_YET,
    ) -> tuple[Outcome, bool]:
        """One transaction. Returns its outcome, and whether the server had not answered a word of it.

        ``verb`` begins it. RSET leads it where an earlier one may still be open, and with ``reset`` in any case.
        Raises only what comes from outside (cancellation), after telling what is known by then, and was ``before``.
        """
        self.channel.outer = (until, "total") if until is not None else None
        try:
            chunked = self.options.chunking == "always"
            started = self.transaction(mail, item, chunked=chunked, reset=reset or self.left_open, verb=verb)
        except SMTPError as error:
            return outcome_of(error, mail, item), False
        try:
            await self.channel.start(started)
            outcome = await self.settle(started, mail)
        except BaseException:
            self.tell(Settled, item=item, outcome=merged(mail.envelope, before, settled(started, mail)))
            raise
        return outcome, unheard(started, outcome)

    def transaction(
        self, mail: "Prepared", item: object, *, chunked: bool, reset: bool, verb: Verb = "MAIL"
    ) -> Started[Outcome]:
        """The transaction of a mail, to be started. Raises NotSupported."""
        self.uses += 1
        if mail.envelope.require_tls and not getattr(self.channel.stream, "verified", False):
            found = "none that is verified" if self.channel.secured else "none"
            raise NotSupported(
                f"{self.options.shown}: a mail that requires TLS goes over verified TLS only (RFC 8689), and here "
                f"there is {found}; use tls=required or tls=implicit",
                extension="REQUIRETLS",
            )
        plan = procedures.plan(
            mail.envelope,
            mail.mail_data,
            self.offered,
            chunked=chunked,
            binary=self.options.binary,
            lmtp=self.options.lmtp,
            message_id=mail.message_id,
            item=item,
            verb=verb,
        )
        self._mails += 1
        if "RCPTDOMAINMAX" in self.offered.limits:
            self._named.update(map(domain, mail.envelope.forward_paths))
        return Started(procedures.transaction(plan, reset=reset), item)

    async def settle(self, started: Started[Outcome], mail: "Prepared") -> Outcome:
        """Finish a transaction. Raises only what comes from outside."""
        await self.channel.see_out(started)
        outcome = settled(started, mail)
        self.left_open = not outcome.accepted
        self._refusals = self._refusals + 1 if isinstance(outcome.error, SenderRefused) else 0
        return outcome

    async def close(self) -> None:
        """Say QUIT, if that makes sense, and close. Never raises but for cancellation."""
        reason: str | None = None
        try:
            if self.channel.broken:
                reason = "broken"
            else:
                self.channel.outer = None
                with suppress(SMTPError):
                    await self.channel.perform(procedures.termination())
                self.channel.stream.deadline = self.channel.stream.now() + self.channel.limits.farewell
                await self.channel.stream.aclose()
        finally:
            self.abort(reason)

    async def leave(self) -> None:
        """Say QUIT, and close without waiting for its reply, which is of no consequence to anybody.

        For a session at rest that no mail shall have any more, while somebody's mail waits for another. Never raises
        but for cancellation.
        """
        reason: str | None = None
        try:
            if self.usable:
                limit = self.channel.stream.now() + self.channel.limits.farewell
                self.channel.outer = (limit, "timeout")
                await self.channel.start(Started(procedures.termination(), None))
                await self.channel.flush()
                self.channel.stream.deadline = limit
                await self.channel.stream.aclose()
            else:
                reason = "dead or broken"
        finally:
            self.abort(reason)

    def abort(self, reason: str | None) -> None:
        """Close at once; what is under way is lost."""
        if not self._closed:
            self._closed = True
            self.channel.abandon(ChannelLost(reason or "the session was closed"))
            self.tell(SessionClosed, reason=reason)

    def tell(self, kind: type[Event], **what: Any) -> None:
        """Tell the observers."""
        if self._observers.heard:
            self._observers.emit(kind(at=self.channel.stream.now(), session=self.number, **what))
