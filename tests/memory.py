"""A session over a stream in memory, with the scripted server at its other end: whole dialogues in microseconds."""

from dataclasses import dataclass
from typing import Any

from smtpkit.errors import Outcome, SMTPError
from smtpkit.observers import Observers
from smtpkit.options import OptionKeywords, Options
from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.mail_data import MailData
from smtpkit.session import Known, Session, World
from smtpkit.testing import Dialogue, Received, Script
from smtpkit.throttle import Throttle
from smtpkit.transport.connect import run_inline
from tests.streams import MemoryStream, run

MAIL = b"From: ann@example.com\r\nSubject: doubt\r\n\r\n.one\r\ntwo\r\n"
RECIPIENTS = ("bob@example.com", "cy@example.com")

# The ways a mail can go, for sweeps over all their octets.
FORMS: dict[str, tuple[Script, OptionKeywords]] = {
    "data": (Script(), {}),
    "data, lock-step": (Script(extensions=("8BITMIME",)), {}),
    "data, one refused": (Script(replies={"RCPT:cy@example.com": "550 5.1.1 no"}), {}),
    "data, refused": (Script(replies={"END": "554 5.7.1 spam"}), {}),
    "bdat": (Script(), {"chunking": "always"}),
    "bdat, lock-step": (Script(extensions=("CHUNKING",)), {"chunking": "always"}),
    "lmtp": (Script(lmtp=True), {}),
    "lmtp, one refused": (Script(lmtp=True, replies={"END:cy@example.com": "452 4.2.2 full"}), {}),
    "lmtp, bdat": (Script(lmtp=True), {"chunking": "always"}),
}


@dataclass(frozen=True)
class Mail:
    """What a session asks of a prepared mail."""

    envelope: Envelope
    mail_data: MailData
    message_id: str | None = None


def mail(octets: bytes = MAIL, recipients: tuple[str, ...] = RECIPIENTS, *, sender: str = "ann@example.com") -> Any:
    """A mail from Ann."""
    return Mail(Envelope.of(sender, recipients), MailData.of(octets))


class Talk:
    """A session with a scripted server in memory; ``stream`` and ``received`` are there to look at."""

    def __init__(self, script: Script, options: OptionKeywords | None = None, **stream: Any) -> None:
        self.dialogue = Dialogue(script)
        self.stream = MemoryStream(self.dialogue, **stream)
        self.events: list[Any] = []
        url = "lmtp://127.0.0.1:24" if script.lmtp else "smtp://127.0.0.1:25"
        chosen: OptionKeywords = {"hello": "client.example", "tls": "none"}
        self.options = Options.of(url, **(chosen | (options or {})))
        self.observers = Observers()
        rate = self.options.rate
        throttle = Throttle(rate) if rate else None
        self.session = Session(self.options, 1, self.observers, throttle)

    @property
    def received(self) -> list[Received]:
        return self.dialogue.received

    def open(self) -> Session:
        async def connect(target: object, deadline: float | None) -> MemoryStream:
            return self.stream

        world = World(connect, run_inline, lambda: self.stream.clock)
        return run(self.session.open(world, None, Known()))

    def send(self, item: Any = None) -> Outcome:
        return run(self.session.send(item or mail(), None, None))[0]


def tried(script: Script, options: OptionKeywords | None = None, **stream: Any) -> tuple[Talk, Outcome | None]:
    """Open and send once; the outcome is None where the session did not come to be."""
    talk = Talk(script, options, **stream)
    try:
        talk.open()
    except SMTPError:
        return talk, None
    return talk, talk.send()
