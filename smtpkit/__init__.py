"""An asyncio-native SMTP client library: ``Client`` for async code, ``SyncClient`` for scripts.

Names are imported when they are first used, so that ``import smtpkit`` costs next to nothing.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smtpkit.bulk import Mail
    from smtpkit.bulk.outcomes import Outcomes
    from smtpkit.client import Client, send
    from smtpkit.component.errors import ComponentError
    from smtpkit.component.smtp import SMTP, AsyncSMTP
    from smtpkit.errors import (
        AuthenticationRefused,
        ChannelLost,
        ConnectError,
        DataRefused,
        InDoubt,
        InvalidMail,
        NotSupported,
        Outcome,
        ProtocolViolation,
        ProxyError,
        RecipientsRefused,
        Refused,
        SenderRefused,
        ServiceClosing,
        SMTPError,
        SpoolError,
        TimedOut,
        TLSError,
        TransportError,
        UsageError,
    )
    from smtpkit.events import (
        Attempted,
        Authenticated,
        CommandSent,
        Connected,
        Event,
        EventsMissed,
        RecipientRefused,
        ReplyReceived,
        Secured,
        SecurityMissing,
        SessionClosed,
        Settled,
        TransferEnded,
        TransferProgress,
        TransferStarted,
    )
    from smtpkit.ledger import Run, RunOutcomes
    from smtpkit.ledger.rows import Counts
    from smtpkit.message.message import DSN, Message
    from smtpkit.message.mime import Attachment
    from smtpkit.options import Proxy, Untrusted
    from smtpkit.protocol.reply import EnhancedStatus, Reply
    from smtpkit.retry import Again, Retry
    from smtpkit.session import Report
    from smtpkit.spool import Spool
    from smtpkit.spool.listed import Listed
    from smtpkit.sync_client import SyncClient, SyncOutcomes
    from smtpkit.worker import Worker, enqueue

__all__ = (
    "DSN",
    "SMTP",
    "Again",
    "AsyncSMTP",
    "Attachment",
    "Attempted",
    "Authenticated",
    "AuthenticationRefused",
    "ChannelLost",
    "Client",
    "CommandSent",
    "ComponentError",
    "ConnectError",
    "Connected",
    "Counts",
    "DataRefused",
    "EnhancedStatus",
    "Event",
    "EventsMissed",
    "InDoubt",
    "InvalidMail",
    "Listed",
    "Mail",
    "Message",
    "NotSupported",
    "Outcome",
    "Outcomes",
    "ProtocolViolation",
    "Proxy",
    "ProxyError",
    "RecipientRefused",
    "RecipientsRefused",
    "Refused",
    "Reply",
    "ReplyReceived",
    "Report",
    "Retry",
    "Run",
    "RunOutcomes",
    "SMTPError",
    "Secured",
    "SecurityMissing",
    "SenderRefused",
    "ServiceClosing",
    "SessionClosed",
    "Settled",
    "Spool",
    "SpoolError",
    "SyncClient",
    "SyncOutcomes",
    "TLSError",
    "TimedOut",
    "TransferEnded",
    "TransferProgress",
    "TransferStarted",
    "TransportError",
    "Untrusted",
    "UsageError",
    "Worker",
    "enqueue",
    "send",
)

# Light ones first.
_ROOMS = (
    *("errors", "events", "options", "protocol.reply", "retry", "message.message", "session", "bulk", "client"),
    *("sync_client", "ledger", "spool", "worker", "component.errors", "component.smtp"),
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        from importlib import import_module

        for room in _ROOMS:
            if hasattr(module := import_module(f"smtpkit.{room}"), name):
                return getattr(module, name)
    raise AttributeError(f"module 'smtpkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *__all__]
