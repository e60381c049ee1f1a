"""What the documented methods do, over the library's sessions: coroutines that wait by ``world`` alone.

Rules: one session at most; a method that finds none opens one for itself, and closes it. What became of a mail is known
before anything is raised. A handler that fails changes nothing: the first of such failures is kept in ``failure``.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from smtpkit.component.choices import Trust, limits, options
from smtpkit.component.compose import HeaderField, Mail, compose, header, header_fields
from smtpkit.component.errors import BUSY, CONNECTED, NOT_CONNECTED, ComponentError, told
from smtpkit.component.fields import Hook
from smtpkit.component.notices import Error, Expand, Translator, reply_lines
from smtpkit.component.settings import Settings
from smtpkit.component.table import HEADER_ROWS, Properties
from smtpkit.errors import Outcome, Refused, SMTPError
from smtpkit.events import (
    CommandSent,
    Event,
    ReplyReceived,
    Settled,
    TransferProgress,
)
from smtpkit.message.message import Prepared
from smtpkit.observers import Observers
from smtpkit.protocol import procedures
from smtpkit.session import Known, Session, World, members
from smtpkit.throttle import Throttle

if TYPE_CHECKING:
    from smtpkit.component.queued import Waiting
    from smtpkit.protocol.command import Verb

T = TypeVar("T")


class Work:
    """The methods of one component, and what they keep: the session, the last reply, who hears the events.

    ``world`` says how to wait, ``disk`` runs what blocks and is not given up in its middle; ``tick`` is called at each
    moment at which a method may be interrupted without a verdict being lost.
    """

    def __init__(
        self,
        table: Properties,
        *,
        trust: Trust,
        in_doubt: Literal["retry", "hold"],
        world: World,
        disk: Callable[[Callable[[], Any]], Awaitable[Any]],
        tick: Callable[[], None],
    ) -> None:
        self.table = table
        self.settings = Settings(self)
        self.session: Session | None = None
        self.idle = True
        self.last_reply = ""
        self.outcome: Outcome | None = None  # of the mail of the method under way
        self.failure: Exception | None = None  # of a handler
        self._until: float | None = None  # the end of the method under way, where Timeout is absolute
        self.notices = Observers()
        self.notices.on(Event, self._call_handler)
        self._observers = Observers()
        self._observers.on(Event, self._hear)
        self._trust = trust
        self._in_doubt: Literal["retry", "hold"] = in_doubt
        self._world = world
        self._disk = disk
        self._tick = tick
        self._hooks: dict[type[Event], str] = {row.event: row.name for row in table.rows() if isinstance(row, Hook)}
        self._translator = Translator()
        self._known = Known()
        self._opened = 0
        self._mails = 0  # of the session

    # What the rows read

    @property
    def connected(self) -> bool:
        """Is there a session?"""
        return self.session is not None

    @property
    def host_name(self) -> str:
        """This machine's own name."""
        import socket

        return socket.gethostname()

    @property
    def local_end(self) -> tuple[str, int]:
        """The address and port of this end of the connection; ("", 0) where there is none."""
        raw = self.session.channel.stream.raw_socket if self.session is not None else None
        return raw.getsockname()[:2] if raw is not None else ("", 0)

    def buffer_size(self, option: str) -> int:
        """What a socket has made of SO_RCVBUF or SO_SNDBUF; 0 where there is none."""
        import socket

        raw = self.session.channel.stream.raw_socket if self.session is not None else None
        return raw.getsockopt(socket.SOL_SOCKET, getattr(socket, option)) if raw is not None else 0

    @property
    def header(self) -> str:
        """The header as it would be sent now. Raises ComponentError."""
        try:
            return header(self.table, self.settings).decode("utf-8", "surrogateescape")
        except SMTPError as error:
            ours = told(error)
            raise ours from ours.__cause__

    @property
    def header_fields(self) -> list[HeaderField]:
        """Its fields. Raises ComponentError."""
        return header_fields(self.header.encode("utf-8", "surrogateescape"))

    # What is heard

    def _hear(self, event: Event) -> None:
        if isinstance(event, ReplyReceived):
            self.last_reply = "\r\n".join(reply_lines(event))
        elif isinstance(event, Settled):
            self.outcome = event.outcome
        for notice in self._translator.notices(event):
            self.notices.emit(notice)
        if isinstance(event, CommandSent | TransferProgress):
            self._tick()

    def _call_handler(self, notice: Event) -> None:
        handler = getattr(self.table, self._hooks[type(notice)])
        try:
            if handler is not None:
                handler(notice)
        except Exception as failure:  # noqa: BLE001  raised by the method, once it has ended
            self.failure = self.failure or failure

    def _complain(self, error: SMTPError, item: object = None) -> None:
        """Tell of something that does not stop the method."""
        ours = told(error)
        number = self.session.number if self.session is not None else 0
        self.notices.emit(
            Error(at=self._world.now(), session=number, item=item, error_code=ours.code, description=ours.message)
        )

    # The session

    async def connect(self) -> None:
        """Connect, say EHLO, begin TLS and log in, as the properties say."""
        if self.session is not None:
            raise ComponentError(CONNECTED, "connected already; disconnect first")
        await self._open()

    async def disconnect(self) -> None:
        """Say QUIT and close; does nothing where there is no connection."""
        session, self.session = self.session, None
        if session is not None:
            await session.close()

    def look(self) -> None:
        """Let go of a session that has ended, or is out of step."""
        self.drop_broken()
        if self.session is not None and not self.session.usable:
            self.session.abort("ended by the server")
            self.session = None

    def drop_broken(self) -> None:
        """Let go of a session that is out of step."""
        if self.session is not None and self.session.channel.broken:
            self.session.abort("broken")
            self.session = None

    def forget(self) -> None:
        """Let go of a session that belongs to another process: it is not told, and does not end."""
        session, self.session = self.session, None
        if session is not None and not session.channel.broken:
            session.channel.stream.abort()  # of an idle stream it closes our copy of the socket, and no more

    async def _open(self) -> Session:
        from smtpkit.transport.tls import default_context

        # Of loading the system's authorities, for 23 ms once, nobody is to wait in a loop.
        run, trust = self._world.run, self._trust
        verified = trust.ssl_context or await run(lambda: default_context(True, None))
        chosen = options(self.table, self.settings, trust, verified, self.host_name)
        self._opened += 1
        self._mails = 0
        self._translator.through_firewall = chosen.proxy is not None
        rate = self.settings.max_transfer_rate
        throttle = Throttle(rate) if rate else None
        session = Session(chosen, self._opened, self._observers, throttle)
        self.session = await session.open(self._world, self._until, self._known)
        return session

    @asynccontextmanager
    async def _lease(self) -> AsyncGenerator[Session]:
        """The session for the time of a block; one opened for it is closed at its end."""
        self.look()
        if (session := self.session) is not None:
            session.channel.limits = limits(self.table, self.settings)
            yield session
            return
        session = await self._open()
        try:
            yield session
        finally:
            self.look()
            await self.disconnect()

    def begin(self) -> None:
        """A method begins."""
        self.idle, self.failure, self.outcome = False, None, None
        self._wind()

    def _wind(self) -> None:
        """From now on counts what is left of an absolute Timeout."""
        absolute = self.settings.absolute_timeout and self.table.timeout
        self._until = self._world.now() + self.table.timeout if absolute else None

    # The methods

    async def send(self) -> Outcome:
        """Send the mail that the properties say; return what the server answered for each recipient.

        Connects and disconnects by itself where there is no connection. A refused To or Cc stops the mail, a refused
        BCc is told by an Error event, as the StopOn settings say.
        """
        return await self._send("MAIL")

    async def send_to_terminal_only(self) -> Outcome:
        """Send the mail by SEND: to the terminals of who is logged in (RFC 821 section 3.4)."""
        return await self._send("SEND")

    async def send_to_terminal_or_email(self) -> Outcome:
        """Send the mail by SOML: to the terminal, or to the mailbox (RFC 821 section 3.4)."""
        return await self._send("SOML")

    async def send_to_terminal_and_email(self) -> Outcome:
        """Send the mail by SAML: to the terminal and to the mailbox (RFC 821 section 3.4)."""
        return await self._send("SAML")

    async def verify(self, email_address: str) -> None:
        """Ask by VRFY whether an address exists; the answer is in LastReply. Raises ComponentError for a no."""
        async with self._lease() as session:
            reply = await session.perform(procedures.verify(email_address), self._until)
        if reply.negative:
            raise Refused(reply, "VRFY")

    async def expand(self, email_address: str) -> None:
        """Ask by EXPN for the members of a list: an Expand event for each. Raises ComponentError for a no."""
        async with self._lease() as session:
            reply = await session.perform(procedures.expand(email_address), self._until)
        for member in members(reply):
            self.notices.emit(Expand(at=self._world.now(), session=session.number, address=member))

    async def command(self, line: str) -> None:
        """Say a command and wait for the reply, which LastReply has; every reply is an answer."""
        self.look()
        if (session := self.session) is None:
            raise ComponentError(NOT_CONNECTED, "not connected; Command needs a connection, so call connect() first")
        session.channel.limits = limits(self.table, self.settings)
        await session.perform(procedures.command(line), self._until)

    async def do_events(self) -> None:
        """Notice what has arrived at a connection at rest: where the server has left, it is closed."""
        self.look()

    def reset_headers(self) -> None:
        """Clear what makes the header and the envelope; the body, the server and the settings stay."""
        for row in self.table.rows():
            if row.documented in HEADER_ROWS:
                setattr(self.table, row.name, row.default)

    async def queue(self, queue_dir: str) -> str:
        """Write the mail into a directory, for ``process_queue`` to send; return the path of its file.

        The directory is there already, and nobody else may write it. The mail is on the disk when this returns, and
        nothing of it is there when it raises. Date and Message-ID are those of now, however often it is tried.

        The file is to be read with any editor. Its lines end in CRLF::

            smtpkit spool 1
            {
             "message_id": "<ea25ea0192385b7a82ec3f65e5f7617f@example.com>",
             "reverse_path": "ann@example.com",
             "forward_paths": [
              {
               "address": "bob@example.com",
               "required": true,
               "notify": [
                "FAILURE"
               ],
               "original": "bob@example.com"
              }
             ],
             "utf8": false,
             "ret": null,
             "envelope_id": null,
             "require_tls": false
            }

            From: Ann <ann@example.com>
            To: bob@example.com
            Subject: Hello
            Date: Thu, 26 Nov 2026 15:11:51 +0000
            Message-ID: <ea25ea0192385b7a82ec3f65e5f7617f@example.com>

            Hello, Bob.
            smtpkit end 00000000000000000186 7bit safe sha256 76b22f54e870ce76…

        So: the envelope as JSON, with everybody who gets a blind copy; ``required`` says whether the refusal of that
        one stops the mail, ``notify`` and ``original`` are of MessageRecipientOptions. An empty line; the mail as it
        will be sent. At the end the mail's size in octets, and the digest of all before: who changes a file makes it
        ``.failed``. Nothing of the server, the user or the password is in it.
        """
        from smtpkit.component import queued

        mail = (await compose(self.table, self.settings, self._world.run)).prepared
        path: str = await self._disk(lambda: queued.add(queue_dir, mail))
        return path

    async def process_queue(self, queue_dir: str) -> None:
        """Send what is queued in a directory, one mail after the other, over one connection.

        Where there is no connection it opens one, and closes it at the end. A mail that was sent is deleted, or
        ``.sent`` with KeepQueue. One that was refused, or is no mail, is ``.failed``: an Error event tells of it, and
        the others go on. One whose connection was lost is ``.queued`` again, or stays ``.sending`` where it may have
        been accepted: that is in doubt, as is what a crash has left ``.sending``. The next run sends it again with the
        same Message-ID, or leaves it alone if the component was made with ``in_doubt="hold"``.

        At the end one ComponentError lists what was not sent. Where no connection or no login can be had, or the
        directory fails, the run stops with an error, and the rest is as it was. Any number of processes may work on
        one directory: each mail is taken by one of them.
        """
        from smtpkit.component.queued import Waiting

        troubles: list[ComponentError] = []
        self.look()
        stays = self.session is not None
        waiting = Waiting(queue_dir, self._in_doubt)
        try:
            while await self._disk(waiting.take):
                error = await self._process(waiting)
                if error is not None:
                    trouble, path = told(error), waiting.taken.path
                    troubles.append(trouble.reword(f"{path}: {trouble.message}"))
                    self._complain(trouble, path)
        except SMTPError as error:
            ours = told(error)
            if troubles:
                ours.reword(f"{ours.message}; before that {_listed(troubles)}")
            raise ours from ours.__cause__
        finally:
            try:
                await self._disk(waiting.close)
            finally:
                if not stays:
                    self.look()
                    await self.disconnect()
        if troubles:
            raise ComponentError(troubles[0].code, _listed(troubles)) from troubles[0].__cause__

    async def _process(self, waiting: "Waiting") -> SMTPError | None:
        """Send what was taken and settle it; return what was wrong. Raises where no connection can be had."""
        from smtpkit.component.queued import wrong
        from smtpkit.spool import Unfit

        taken = waiting.taken
        if isinstance(taken, Unfit):
            return taken.error
        self.outcome = None
        self._wind()  # the limit is each mail's
        self.look()
        session = self.session or await self._open()
        session.channel.limits = limits(self.table, self.settings)
        prepared = Prepared(taken.envelope, taken.mail_data, taken.message_id, taken.path)
        try:
            outcome = await self._transact(session, Mail(prepared, waiting.header_size), "MAIL")
        finally:
            await self._disk(lambda: waiting.settle(self.outcome, keep=self.settings.keep_queue))
        return wrong(outcome)

    async def _send(self, verb: "Verb") -> Outcome:
        mail = await compose(self.table, self.settings, self._world.run)
        async with self._lease() as session:
            outcome = await self._transact(session, mail, verb)
        if outcome.error is not None:
            raise outcome.error
        return outcome

    async def _transact(self, session: Session, mail: Mail, verb: "Verb") -> Outcome:
        """One mail over a session; tells of each recipient who was refused and is not to stop it."""
        self._translator.header_size = mail.header_size
        self.outcome = None
        reset = self.settings.send_rset and self._mails > 0
        self._mails += 1
        prepared = mail.prepared
        outcome, _ = await session.transact(prepared, prepared.item, self._until, verb=verb, reset=reset)
        self.outcome = outcome
        required = {path.address for path in prepared.envelope.forward_paths if path.required}
        for path, reply in outcome.refused.items():
            if path not in required:
                self._complain(Refused(reply, f"RCPT <{path}>"), prepared.item)
        return outcome


def busy() -> ComponentError:
    """Another method is running."""
    return ComponentError(BUSY, "busy: another method is running; in a handler only interrupt() may be called")


def _listed(troubles: list[ComponentError]) -> str:
    return f"{len(troubles)} not sent: {'; '.join(trouble.message for trouble in troubles)}"
