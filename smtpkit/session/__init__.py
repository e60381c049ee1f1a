"""One session with one server, from the greeting to QUIT: the only place where transport, channel and procedures meet.

Everything here awaits only a stream, so it runs alike on asyncio, on trio and in a blocking caller's thread.
"""

import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from smtpkit.channel import Channel, Started
from smtpkit.errors import (
    AuthenticationRefused,
    ChannelLost,
    NotSupported,
    Outcome,
    SenderRefused,
    ServiceClosing,
    SMTPError,
    TimedOut,
    TLSError,
    UsageError,
)
from smtpkit.events import (
    Authenticated,
    Connected,
    Event,
    Secured,
    SecurityMissing,
    SessionClosed,
    Settled,
)
from smtpkit.observers import Observers
from smtpkit.options import PARAMETERS, Credentials, Options, Secret, Token, Untrusted
from smtpkit.protocol import procedures
from smtpkit.protocol.command import Verb
from smtpkit.protocol.extension import NOTHING, Extensions
from smtpkit.protocol.mechanism import Binding, Identity
from smtpkit.protocol.recipients import domain, first, merged, rest, taken
from smtpkit.protocol.sasl import Proof, choose
from smtpkit.protocol.steps import Procedure
from smtpkit.session.delivery import NOTHING_YET, Lease, announce, deliver, members, outcome_of, settled, unheard
from smtpkit.session.known import Known, Report, World
from smtpkit.throttle import Throttle
from smtpkit.transport.stream import Stream

if TYPE_CHECKING:
    from ssl import SSLContext

    from smtpkit.message.message import Prepared
    from smtpkit.protocol.reply import Reply
    from smtpkit.transport.tls import SecureStream

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
        self._mark = 0.0
        self._fresh: str | None = None  # the token got after the first was refused
        self._again = False  # it was tried over a connection of its own
        self._world: World
        self._known: Known
        self._connect_by = inf
        self._resumes: tuple[SSLContext, object] | None = None  # under what a ticket is known
        self._resuming = False  # by a ticket
        self._untrusted: TLSError | None = None  # the certificate of the first connection did not verify

    async def open(self, world: World, until: float | None, known: Known) -> "Session":
        """Connect, and lead the session to where mail can be sent: greeting, EHLO, TLS, AUTH, as the options ask.

        ``known`` is shared by the sessions of a client. Raises SMTPError, and leaves nothing open.
        """
        from smtpkit.transport.connect import Target

        options = self.options
        target = Target(
            *(options.host, options.port, options.path, options.local_address, options.local_port),
            *(options.family, options.socket_options),
        )
        self._world, self._known = world, known
        self.began = self._mark = world.now()
        self._connect_by = min(self._connect_by, self._mark + options.limits.connect)
        limit, name = self._connect_by, "connect"
        if until is not None and until < limit:
            limit, name = until, "total"
        stream: Stream | None = None
        deadline = limit if limit < inf else None
        try:
            if options.client_certificate is not None:
                await self._context(world.run)  # what cannot be loaded is told before anything is said
            if options.proxy is None:
                stream = await world.connect(target, deadline)
            else:
                from smtpkit.transport.proxy import connect_through

                stream = await connect_through(options.proxy, target, deadline, connect=world.connect, run=world.run)
            self._lap(stream, "connect")
            self.channel = Channel(
                stream,
                options.limits,
                secure=self._secure,
                throttles=self._throttles,
                least_rate=options.least_rate,
                observers=self._observers,
                session=self.number,
                reply_line=options.reply_line,
                known=known.replies,
            )
            self.tell(Connected, server=options.shown, address=stream.peer)
            if options.tls == "implicit":
                stream.deadline = deadline
                stream = self.channel.stream = await self._secure(stream)
                self.channel.secured = True
            self.channel.outer = (limit, name)
            await self._introduce()
            self.channel.outer = (until, "total") if until is not None else None
            if options.credentials is not None:
                await self._authenticate(options.credentials)
        except BaseException as error:
            if isinstance(error, SMTPError) and "greeting" in self.times:
                await self.close()
            elif stream is not None:
                self.abort(type(error).__name__)
            if isinstance(error, TimeoutError) and not isinstance(error, SMTPError):
                raise TimedOut(f"{options.shown}: the {name} limit ran out", limit=name) from error
            if not self._worth_another(error):
                raise
        else:
            self._keep_ticket()
            return self
        self._closed, self.times = False, {}
        return await self.open(world, until, known)

    def _worth_another(self, error: BaseException) -> bool:
        """Is there something to be had by another connection that the one which ended so could not give?"""
        if isinstance(error, TLSError) and error.__cause__ is not None:
            from ssl import SSLCertVerificationError

            if isinstance(error.__cause__, SSLCertVerificationError):
                if self.options.on_untrusted and self._untrusted is None:
                    self._untrusted = error
                    return True
            elif self._resumes and self._resuming:  # some servers do not refuse a ticket, they leave
                self._known.tickets[self._resumes] = None
                return True
        # The server left after it had refused a token, so that the fresh one could not be tried.
        if self._fresh is None or self._again or not isinstance(error, ChannelLost | ServiceClosing):
            return False
        self._again, self._connect_by, self._untrusted = True, inf, None
        return True

    async def _introduce(self) -> None:
        """Greeting, EHLO, and STARTTLS where the options want it."""
        options, channel = self.options, self.channel
        where = f"{options.host}:{options.port}{options.path or ''}"
        self.greeting = await channel.perform(procedures.greeting())
        self._lap(channel.stream, "greeting")
        wanted = options.tls in ("opportunistic", "required")
        fall_back = options.tls != "required" and options.credentials is None
        name = options.hello or channel.stream.local_host
        if options.extensions:
            self.offered = await channel.perform(procedures.hello(name, lmtp=options.lmtp, fall_back=fall_back))
        else:
            self.offered = await channel.perform(procedures.plain_hello(name))
        self._lap(channel.stream, "hello")
        if not wanted:
            return
        refusal = "the server does not offer STARTTLS"
        if "STARTTLS" in self.offered:
            self._known.offered_tls.add(where)
            reply = await channel.perform(procedures.secure())
            if channel.secured:
                self.offered = NOTHING  # what was said in clear may have been said by anybody (RFC 3207 section 4.2)
                self.offered = await channel.perform(procedures.hello(name, lmtp=options.lmtp, fall_back=False))
                return
            refusal = f"STARTTLS was refused: {reply}"
        if where in self._known.offered_tls:
            self.tell(SecurityMissing, server=options.shown)
        if options.tls == "required":
            raise TLSError(
                f"{options.shown}: TLS is required, and {refusal}; nothing was sent; "
                "check the port, and use smtps:// where TLS begins at once"
            )

    async def _secure(self, stream: Stream) -> Stream:
        """TLS over the stream, by the options."""
        from smtpkit.transport import tls

        options = self.options
        context = await self._context(stream.run)
        self._resumes = context, options.key
        ticket = self._known.tickets.get(self._resumes)
        self._resuming = ticket is not None
        if ticket is not None:
            del self._known.tickets[self._resumes]
        name = options.tls_name or options.host
        secured = await tls.secure(stream, context, name, pins=options.pins, ticket=ticket)
        if self._untrusted is not None:
            secured.verified = await self._decide(secured, self._untrusted)
        self._lap(secured, "tls")
        self.tell(
            Secured,
            version=secured.version,
            cipher=secured.cipher,
            verified=secured.verified,
            resumed=secured.resumed,
        )
        return secured

    def _keep_ticket(self) -> None:
        """Keep what the server gave to resume TLS by; by now it has said something within."""
        ticket, tickets = getattr(self.channel.stream, "ticket", None), self._known.tickets
        if self._resumes and ticket is not None and tickets.get(self._resumes, ticket) is not None:
            tickets[self._resumes] = ticket

    async def _context(self, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> "SSLContext":
        """The caller's, or one of ours."""
        from smtpkit.transport import tls

        options = self.options
        verify = options.tls != "opportunistic" and not options.pins and self._untrusted is None
        if options.ssl_context is not None:
            return options.ssl_context
        context: SSLContext = await run(partial(tls.default_context, verify, options.client_certificate))
        return context  # to load the system's certificates takes some 20 ms

    async def _decide(self, secured: "SecureStream", refusal: TLSError) -> bool:
        """Ask whether a certificate that does not verify is taken, and go on with the one who showed it, or raise.

        Python cannot ask within a handshake. So the first connection was given up, and on this one nothing is verified
        and nothing was said within TLS yet: it waits for the answer about the very certificate that it has.
        """
        der, policy = secured.certificate_der() or b"", self.options.on_untrusted
        cause: Any = refusal.__cause__
        question = Untrusted(
            server_name=self.options.tls_name or self.options.host,
            reason=cause.verify_message,
            code=cause.verify_code,
            pins=secured.pins,
            der=der,
            address=secured.peer,
            tls_version=secured.version,
            cipher=secured.cipher,
        )

        def ask() -> bool:
            with self._known.deciding:
                if der not in self._known.decided:
                    answer: object = policy(question) if policy else False
                    if not isinstance(answer, bool):
                        raise UsageError(f"on_untrusted must return True or False, not {type(answer).__name__}")
                    self._known.decided[der] = answer
                return self._known.decided[der]

        if not await self._world.run(ask, secured.deadline):
            raise TLSError(f"{refusal} on_untrusted does not accept {question.pins[0]}.") from cause
        return True

    async def _authenticate(self, credentials: Credentials) -> None:
        """Log in by the best mechanism; the next is tried only where the server does not support one after all."""
        options, channel = self.options, self.channel
        if not (channel.secured or options.allow_plaintext_auth):
            raise TLSError(
                f"{options.shown}: credentials are not sent without TLS; "
                "use tls=required, or allow_plaintext_auth=True if you know what you do"
            )
        bindings = self._bindings()
        proof: Proof = "password" if credentials.password else "token" if credentials.token else "none"
        named, offered = credentials.mechanism, self.offered.mechanisms
        names = choose(offered, proof=proof, named=named, bindable=bool(bindings))
        if not names:
            raise NotSupported(
                f"{options.shown}: no mechanism fits {named or 'the credentials'}; "
                f"the server offers {', '.join(offered) or 'none'}",
                extension="AUTH",
            )
        if named and not named.upper().endswith("-PLUS") and any(name.endswith("-PLUS") for name in offered):
            bindings = []  # so that the server does not take the caller's choice for an attack (RFC 5802 section 6)
        identity = Identity(
            user=credentials.user or "",
            password=credentials.password.reveal() if credentials.password else None,
            token=self._fresh or await self._token(credentials.token),
            authzid=credentials.authzid or "",
            host=options.host,
            port=options.port,
            service="lmtp" if options.lmtp else "smtp",
            binding=bindings[0] if bindings else None,
        )
        refusal = await self._log_in(names, identity)
        if refusal is not None and refusal.reply.code == 535 and callable(credentials.token) and self._fresh is None:
            self._fresh = await self._token(credentials.token)
            if self._fresh != identity.token:
                refusal = await self._log_in(names, replace(identity, token=self._fresh))
        if refusal is not None:
            raise refusal
        self._lap(channel.stream, "authentication")
        self.tell(Authenticated, mechanism=self.mechanism)

    async def _log_in(self, names: tuple[str, ...], identity: Identity) -> AuthenticationRefused | None:
        """Try these mechanisms; return the refusal, if there is one."""
        from secrets import token_urlsafe

        for name in names:
            exchange = procedures.authenticate(name, replace(identity, nonce=token_urlsafe(24)))
            refusal = await self.channel.perform(exchange)
            if refusal is None:
                self.mechanism = name
            if refusal is None or refusal.reply.code != 504:
                break
        return refusal

    def _bindings(self) -> list[Binding]:
        """What a login can be bound to, best first; nothing where there is no TLS.

        The exporter comes first: servers need not know another in TLS 1.3, and few do (RFC 9266 section 3). It is asked
        for only where the server offers to bind.
        """
        octets_of = getattr(self.channel.stream, "channel_binding", lambda _: None)
        bound = any(name.endswith("-PLUS") for name in self.offered.mechanisms)
        kinds = ("tls-exporter", "tls-server-end-point") if bound else ("tls-server-end-point",)
        found = [(kind, octets_of(kind)) for kind in kinds]
        return [Binding(kind, octets) for kind, octets in found if octets]

    async def _token(self, token: Token | None) -> str | None:
        """The token, asked for where it is a function; one that blocks is called where blocking is allowed."""
        if isinstance(token, Secret):
            return token.reveal()
        if not callable(token):
            return token
        answer = token() if inspect.iscoroutinefunction(token) else await self.channel.stream.run(token)
        if inspect.isawaitable(answer):
            answer = await answer
        if not (isinstance(answer, str) and PARAMETERS["token"].kind.right(answer)):
            raise UsageError("token: the function returned no token, which is a text without control characters")
        return answer

    def _lap(self, stream: Stream, stage: str) -> None:
        now = stream.now()
        self.times[stage] = now - self._mark
        self._mark = now

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
