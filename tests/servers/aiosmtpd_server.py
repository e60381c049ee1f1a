"""aiosmtpd in a thread of its own: a server by other hands that keeps each envelope it was given."""

import asyncio
import ssl
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.servers.certificates import issue

USER = "tester"
PASSWORD = "secret"


@dataclass(frozen=True, slots=True)
class Received:
    """One mail, as the server understood it.

    ``content`` is its octets after the dots were unstuffed; ``rcpt_options`` has one text for each recipient, in
    capitals as aiosmtpd tells them; ``user`` is who logged in.
    """

    mail_from: str
    mail_options: list[str]
    rcpt_tos: list[str]
    rcpt_options: list[str]
    content: bytes
    user: str | None
    encrypted: bool


class _Keeper:
    """The handler: takes every mail but for ``reject…``, and keeps it."""

    def __init__(self) -> None:
        self.received: list[Received] = []

    async def handle_MAIL(  # noqa: N802  aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options = options
        return "250 OK"

    async def handle_RCPT(  # noqa: N802  aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address.startswith("reject"):
            return "550 5.1.1 no such mailbox"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.append(" ".join(options))
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        assert envelope.mail_from is not None
        assert server.transport is not None
        mail = Received(
            mail_from=envelope.mail_from,
            mail_options=envelope.mail_options,
            rcpt_tos=envelope.rcpt_tos,
            rcpt_options=envelope.rcpt_options,
            content=envelope.content,
            user=session.auth_data,
            encrypted=server.transport.get_extra_info("ssl_object") is not None,
        )
        self.received.append(mail)
        return "250 OK"


def _judge(server: SMTP, session: Session, envelope: Envelope, mechanism: str, login: Any) -> AuthResult:
    good = isinstance(login, LoginPassword) and login == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=good, handled=good, auth_data=USER if good else None)  # not handled: it answers 535


class _Controller(Controller):
    """On a free port; and one loop for all connections, where aiosmtpd would make (and leave) one for each."""

    def factory(self) -> SMTP:
        return SMTP(self.handler, loop=self.loop, **self.SMTP_kwargs)

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd's


class AiosmtpdServer:
    """An aiosmtpd that runs while the context lasts, with STARTTLS, or with implicit TLS.

    ``port`` is on 127.0.0.1, ``certificate`` the file to trust, ``received`` what came so far. AUTH (``USER``,
    ``PASSWORD``; PLAIN and LOGIN) is offered under TLS only. ``smtputf8`` says whether SMTPUTF8 is offered.
    """

    def __init__(self, directory: Path, *, implicit_tls: bool = False, smtputf8: bool = True) -> None:
        certificate = issue(directory)
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.chain, certificate.key)
        keeper = _Keeper()
        self.certificate = certificate.authority
        self.received = keeper.received
        self._controller = _Controller(
            keeper,
            hostname="127.0.0.1",
            port=0,
            ssl_context=context if implicit_tls else None,
            tls_context=None if implicit_tls else context,
            auth_require_tls=not implicit_tls,  # aiosmtpd counts only STARTTLS as TLS
            authenticator=_judge,
            enable_SMTPUTF8=smtputf8,
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._controller.port

    def __enter__(self) -> Self:
        self._controller.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._controller.stop()
