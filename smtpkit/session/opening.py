"""How a session is opened: connection, greeting, EHLO, TLS and login, as the options ask."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from smtpkit.errors import (
    AuthenticationRefused,
    ChannelLost,
    NotSupported,
    ServiceClosing,
    SMTPError,
    TimedOut,
    TLSError,
    UsageError,
)
from smtpkit.events import Authenticated, Secured, SecurityMissing
from smtpkit.options import PARAMETERS, Credentials, Secret, Token, Untrusted
from smtpkit.protocol import procedures
from smtpkit.protocol.extension import NOTHING
from smtpkit.protocol.mechanism import Binding, Identity
from smtpkit.protocol.sasl import Proof, choose
from smtpkit.session.known import Known, World
from smtpkit.transport.stream import Stream

if TYPE_CHECKING:
    from ssl import SSLContext

    from smtpkit.session import Session
    from smtpkit.transport.tls import SecureStream


class Opening:
    """The opening of one session, over as many connections as it takes. ``until`` is the total limit."""

    def __init__(self, session: "Session", world: World, until: float | None, known: Known) -> None:
        self._session = session
        self._options = session.options
        self._world = world
        self._until = until
        self._known = known
        self._connect_by = inf
        self._mark = 0.0  # when the last stage ended
        self._fresh: str | None = None  # the token got after the first was refused
        self._again = False  # it was tried over a connection of its own
        self._resumes: tuple[SSLContext, object] | None = None  # under what a ticket is known
        self._resuming = False  # by a ticket
        self._untrusted: TLSError | None = None  # the certificate of the first connection did not verify

    async def perform(self) -> None:
        """Open it. Raises SMTPError, and leaves nothing open."""
        while True:
            try:
                await self._try()
            except SMTPError as error:
                if not self._worth_another(error):
                    raise
            else:
                self._keep_ticket()
                return

    async def _try(self) -> None:
        """Open it over one connection."""
        session, options, until = self._session, self._options, self._until
        session.began = self._mark = self._world.now()
        session.times = {}
        self._connect_by = min(self._connect_by, self._mark + options.limits.connect)
        limit, name = self._connect_by, "connect"
        if until is not None and until < limit:
            limit, name = until, "total"
        stream: Stream | None = None
        deadline = limit if limit < inf else None
        try:
            stream = await self._connect(deadline)
            self._lap(stream, "connect")
            session.begin(stream, self._secure, self._known)
            if options.tls == "implicit":
                stream.deadline = deadline
                session.channel.stream = await self._secure(stream)
                session.channel.secured = True
            session.channel.outer = (limit, name)
            await self._introduce()
            session.channel.outer = (until, "total") if until is not None else None
            if options.credentials is not None:
                await self._authenticate(options.credentials)
        except BaseException as error:
            if isinstance(error, SMTPError) and "greeting" in session.times:
                await session.close()
            elif stream is not None:
                session.abort(type(error).__name__)
            if isinstance(error, TimeoutError) and not isinstance(error, SMTPError):
                raise TimedOut(f"{options.shown}: the {name} limit ran out", limit=name) from error
            raise

    async def _connect(self, deadline: float | None) -> Stream:
        """The connection, by a proxy or not."""
        from smtpkit.transport.connect import Target

        options, world = self._options, self._world
        if options.client_certificate is not None:
            await self._context(world.run)  # what cannot be loaded is told before anything is said
        target = Target(
            *(options.host, options.port, options.path, options.local_address, options.local_port),
            *(options.family, options.socket_options),
        )
        if options.proxy is None:
            return await world.connect(target, deadline)
        from smtpkit.transport.proxy import connect_through

        return await connect_through(options.proxy, target, deadline, connect=world.connect, run=world.run)

    def _worth_another(self, error: BaseException) -> bool:
        """Is there something to be had by another connection that the one which ended so could not give?"""
        if isinstance(error, TLSError) and error.__cause__ is not None:
            from ssl import SSLCertVerificationError

            if isinstance(error.__cause__, SSLCertVerificationError):
                if self._options.on_untrusted and self._untrusted is None:
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
        options, session = self._options, self._session
        channel = session.channel
        where = f"{options.host}:{options.port}{options.path or ''}"
        session.greeting = await channel.perform(procedures.greeting())
        self._lap(channel.stream, "greeting")
        wanted = options.tls in ("opportunistic", "required")
        fall_back = options.tls != "required" and options.credentials is None
        name = options.hello or channel.stream.local_host
        if options.extensions:
            session.offered = await channel.perform(procedures.hello(name, lmtp=options.lmtp, fall_back=fall_back))
        else:
            session.offered = await channel.perform(procedures.plain_hello(name))
        self._lap(channel.stream, "hello")
        if not wanted:
            return
        refusal = "the server does not offer STARTTLS"
        if "STARTTLS" in session.offered:
            self._known.offered_tls.add(where)
            reply = await channel.perform(procedures.secure())
            if channel.secured:
                session.offered = NOTHING  # what was said in clear may be anybody's (RFC 3207 section 4.2)
                session.offered = await channel.perform(procedures.hello(name, lmtp=options.lmtp, fall_back=False))
                return
            refusal = f"STARTTLS was refused: {reply}"
        if where in self._known.offered_tls:
            session.tell(SecurityMissing, server=options.shown)
        if options.tls == "required":
            raise TLSError(
                f"{options.shown}: TLS is required, and {refusal}; nothing was sent; "
                "check the port, and use smtps:// where TLS begins at once"
            )

    async def _secure(self, stream: Stream) -> Stream:
        """TLS over the stream, by the options."""
        from smtpkit.transport import tls

        options = self._options
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
        self._session.tell(
            Secured,
            version=secured.version,
            cipher=secured.cipher,
            verified=secured.verified,
            resumed=secured.resumed,
        )
        return secured

    def _keep_ticket(self) -> None:
        """Keep what the server gave to resume TLS by; by now it has said something within."""
        ticket, tickets = getattr(self._session.channel.stream, "ticket", None), self._known.tickets
        if self._resumes and ticket is not None and tickets.get(self._resumes, ticket) is not None:
            tickets[self._resumes] = ticket

    async def _context(self, run: Callable[[Callable[[], Any]], Awaitable[Any]]) -> "SSLContext":
        """The caller's, or one of ours."""
        from smtpkit.transport import tls

        options = self._options
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
        der, policy = secured.certificate_der() or b"", self._options.on_untrusted
        cause: Any = refusal.__cause__
        question = Untrusted(
            server_name=self._options.tls_name or self._options.host,
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
        options, channel = self._options, self._session.channel
        if not (channel.secured or options.allow_plaintext_auth):
            raise TLSError(
                f"{options.shown}: credentials are not sent without TLS; "
                "use tls=required, or allow_plaintext_auth=True if you know what you do"
            )
        bindings = self._bindings()
        proof: Proof = "password" if credentials.password else "token" if credentials.token else "none"
        named, offered = credentials.mechanism, self._session.offered.mechanisms
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
        self._session.tell(Authenticated, mechanism=self._session.mechanism)

    async def _log_in(self, names: tuple[str, ...], identity: Identity) -> AuthenticationRefused | None:
        """Try these mechanisms; return the refusal, if there is one."""
        from secrets import token_urlsafe

        for name in names:
            exchange = procedures.authenticate(name, replace(identity, nonce=token_urlsafe(24)))
            refusal = await self._session.channel.perform(exchange)
            if refusal is None:
                self._session.mechanism = name
            if refusal is None or refusal.reply.code != 504:
                break
        return refusal

    def _bindings(self) -> list[Binding]:
        """What a login can be bound to, best first; nothing where there is no TLS.

        The exporter comes first: servers need not know another in TLS 1.3, and few do (RFC 9266 section 3). It is asked
        for only where the server offers to bind.
        """
        octets_of = getattr(self._session.channel.stream, "channel_binding", lambda _: None)
        bound = any(name.endswith("-PLUS") for name in self._session.offered.mechanisms)
        kinds = ("tls-exporter", "tls-server-end-point") if bound else ("tls-server-end-point",)
        found = [(kind, octets_of(kind)) for kind in kinds]
        return [Binding(kind, octets) for kind, octets in found if octets]

    async def _token(self, token: Token | None) -> str | None:
        """The token, asked for where it is a function; one that blocks is called where blocking is allowed."""
        if isinstance(token, Secret):
            return token.reveal()
        if not callable(token):
            return token
        answer = token() if inspect.iscoroutinefunction(token) else await self._session.channel.stream.run(token)
        if inspect.isawaitable(answer):
            answer = await answer
        if not (isinstance(answer, str) and PARAMETERS["token"].kind.right(answer)):
            raise UsageError("token: the function returned no token, which is a text without control characters")
        return answer

    def _lap(self, stream: Stream, stage: str) -> None:
        """A stage has ended."""
        now = stream.now()
        self._session.times[stage] = now - self._mark
        self._mark = now
