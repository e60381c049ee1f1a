"""What a scripted server is told to do and what it has seen: values, and the record of a session.

A *moment* says when something happens. It is a key: ``"greeting"``, a verb (``"MAIL"``), a verb and its path or
argument (``"RCPT:bad@example.com"``, ``"AUTH:PLAIN"``), ``"RESPONSE"`` (a line sent during AUTH), ``"END"`` (the mail
data is complete, by DATA or by BDAT LAST) and in LMTP ``"END:carol@example.com"``. The longer key wins. Where it is
allowed, a number is a moment too: so many octets of mail data have arrived.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from email.message import EmailMessage

EXTENSIONS = (
    "PIPELINING",
    "SIZE 52428800",
    "8BITMIME",
    "SMTPUTF8",
    "DSN",
    "CHUNKING",
    "BINARYMIME",
    "ENHANCEDSTATUSCODES",
)
MECHANISMS = ("PLAIN", "LOGIN", "CRAM-MD5", "XOAUTH2", "OAUTHBEARER")

FaultKind = Literal["close", "cut", "reset", "stall", "deaf", "garbage"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong: in ``Script.faults`` at a place in the octets, or as an answer, instead of a reply.

    ``after`` counts the octets that the server has sent, ``before`` those it has received; one of them is given in
    ``Script.faults``, none in an answer. Both count the octets of the dialogue, inside TLS and outside together.

    ``close``: end of the stream, in order (with close_notify in TLS). ``cut``: the same without close_notify.
    ``reset``: TCP RST. ``stall``: goes on reading and doing as it is told, but nothing it says leaves any more.
    ``deaf``: stops reading too. ``garbage``: says ``octets`` and goes on.
    """

    kind: FaultKind
    after: int | None = None
    before: int | None = None
    octets: bytes = b"\x00\xff\xfe garbage \x80\r\n"


@dataclass(frozen=True, slots=True)
class Received:
    """A mail that the server has accepted, as it came.

    ``octets`` is the mail data without transparency, or the chunks joined; line ends are as they came. In LMTP
    ``recipients`` holds only those whose final reply was positive. Where the script keeps digests only, ``octets`` is
    empty and ``sha256`` (hexadecimal) says what it was; else ``sha256`` is "".
    """

    reverse_path: str
    mail_parameters: Mapping[str, str | None]
    recipients: "tuple[Recipient, ...]"
    octets: bytes
    size: int
    chunked: bool
    secured: bool
    user: str | None
    hello: str
    session: int
    sha256: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """The forward-paths alone."""
        return tuple(recipient.path for recipient in self.recipients)

    def message(self) -> "EmailMessage":
        """The mail data as the standard library reads it."""
        import email
        import email.policy

        return email.message_from_bytes(self.octets, policy=email.policy.SMTP)


class Recipient(NamedTuple):
    """A forward-path and its parameters; the keywords are upper case."""

    path: str
    parameters: Mapping[str, str | None]


class Line(NamedTuple):
    """A line of the transcript: who said it (C or S), the octets without their line end, and whether TLS was on."""

    direction: Literal["C", "S"]
    octets: bytes
    secured: bool


class Session:
    """What the server saw of one connection.

    ``transcript`` holds the commands and replies; mail data is not in it. ``octets_in`` is what arrived outside mail
    data, ``octets_in_clear`` the part of it that came outside TLS. ``errors`` says, a sentence each, what the client
    did that a client must not do; a test asserts that it is empty. ``hello`` is the name it gave, ``user`` who it has
    shown to be (None: nobody; "": a script said 235).
    """

    def __init__(self, number: int = 1) -> None:
        self.number = number
        self.transcript: list[Line] = []
        self.octets_in = bytearray()
        self.octets_in_clear = bytearray()
        self.errors: list[str] = []
        self.hello = ""
        self.secured = False
        self.user: str | None = None
        self.closed = False

    def said(self, direction: Literal["C", "S"]) -> list[bytes]:
        """The lines of one side."""
        return [line.octets for line in self.transcript if line.direction == direction]

    def __repr__(self) -> str:
        return f"<Session {self.number}: {len(self.transcript)} lines, {len(self.errors)} errors>"


@dataclass(frozen=True, slots=True)
class Occurrence:
    """What a callable in a script is asked about.

    ``key`` is the key that matched, ``count`` how often it has (the first time 1), ``line`` the client's latest line
    without its end, ``mail`` the mail that an END would accept.
    """

    key: str
    count: int
    line: bytes
    session: Session
    mail: Received | None = None


Answer = str | bytes | Fault | None
"""``str``: a reply, lines separated by ``\\n`` ("250 one\\ntwo", or each with its code). ``bytes``: these octets
exactly, so they may hold more than a reply, or less. ``None``: silence. What the answer begins with decides what it
does: after a scripted 250 to MAIL a transaction is open, after a scripted 220 to STARTTLS comes TLS."""

Choice = Answer | Callable[[Occurrence], Answer]
Reply = Choice | Sequence[Choice]
"""A sequence gives one answer for each occurrence in the server's life; the last one repeats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the server does; without arguments a good modern server without TLS and login.

    ``extensions`` are the lines after EHLO; STARTTLS and AUTH are added where ``tls``, ``users`` and ``tokens`` call
    for them and no line here names them. What is not offered is not understood. ``users`` maps names to passwords,
    ``tokens`` names to bearer tokens. ``require_tls``: no mail and no AUTH outside TLS.

    ``replies`` maps moments to what is said instead of the server's own reply, ``delay`` moments to seconds waited
    before it. ``early`` maps moments to what is said after it, in a write of its own; its delay is that of ``"early"``.
    Numbers are moments there and in ``close_after``, which closes the connection once everything has been said.
    ``drip`` is the pause in seconds before each octet sent.

    ``forgets``: octets that came together with the end of mail data are thrown away, as some servers do.

    ``strict``: bare CR and LF, undeclared 8-bit mail data and pipelining behind a command that must be a group's last
    (RFC 2920 section 3.1) are noted in the session's errors. ``keep``: the octets of a mail or their digest only.
    """

    greeting: Reply = "220 smtpkit.test ESMTP smtpkit.testing"
    extensions: tuple[str, ...] = EXTENSIONS
    lmtp: bool = False
    tls: Literal["none", "starttls", "implicit"] = "none"
    users: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    mechanisms: tuple[str, ...] = MECHANISMS
    require_auth: bool = False
    require_tls: bool = False
    replies: Mapping[str, Reply] = field(default_factory=dict)
    delay: Mapping[str, float] = field(default_factory=dict)
    early: Mapping[str | int, Answer] = field(default_factory=dict)
    close_after: frozenset[str | int] = frozenset()
    faults: tuple[Fault, ...] = ()
    drip: float = 0
    forgets: bool = False
    strict: bool = True
    keep: Literal["octets", "digest"] = "octets"

    def __post_init__(self) -> None:
        if self.tls not in ("none", "starttls", "implicit"):
            raise ValueError(f'tls {self.tls!r}: "none", "starttls" or "implicit"')
        if unknown := set(self.mechanisms) - set(MECHANISMS):
            raise ValueError(f"mechanisms {sorted(unknown)}: any of {', '.join(MECHANISMS)}")
        for fault in self.faults:
            if (fault.after is None) == (fault.before is None):
                raise ValueError(f"{fault}: give after= (octets sent) or before= (octets received)")
        for moment in (*self.replies, *self.delay, *self.early, *self.close_after):
            verb = moment.partition(":")[0] if isinstance(moment, str) else "NUMBER"
            if not verb.isupper() and verb not in ("greeting", "early"):
                raise ValueError(f'moment {moment!r}: "greeting", a verb in upper case, "VERB:argument" or "END"')
        if "greeting" in self.replies:
            raise ValueError("replies: the greeting has a field of its own")
