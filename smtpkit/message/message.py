"""Stand-in until the room is built."""
from dataclasses import dataclass
from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.mail_data import MailData
class Message: ...
class DSN: ...
class Attachment: ...
@dataclass(frozen=True)
class Prepared:
    envelope: Envelope
    mail_data: MailData
    message_id: str | None
async def prepare(message, sender=None, recipients=None, *, newlines="normalize", on_refused="continue", dsn=None, run):
    return Prepared(Envelope.of(sender or "ann@example.com", recipients or ["bob@example.com"], required=on_refused=="stop"), MailData.of(message, strict=newlines=="strict"), None)
