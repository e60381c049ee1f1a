"""Commands, one class for each verb: what is said, how it is rendered, how it is shown, how its reply is waited for.

Rules: ``line`` is the one function that renders a command line, and it refuses what could end one; a command knows
which part of it is secret; a command names the limit its reply is waited for under (RFC 5321 section 4.5.3.2).
"""

import base64
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from smtpkit.errors import InvalidMail
from smtpkit.protocol.reply import ROOMY, USUAL, Reply, ReplyLimits

_UNSAFE = re.compile("[\x00-\x1f\x7f]")
MASK = "***"


def line(verb: str, argument: str = "", *, longest: int = 512) -> bytes:
    """Render one command line. Raises InvalidMail for what cannot be said in one.

    ``longest`` counts octets with CRLF (RFC 5321 section 4.5.3.1.4). Non-ASCII text goes out as UTF-8 (RFC 6531).
    """
    text = f"{verb} {argument}" if argument else verb
    if not text.isprintable() and _UNSAFE.search(text):
        raise InvalidMail(f"{verb} argument {argument!r}: control characters cannot be sent; remove them")
    try:
        octets = text.encode()
    except UnicodeEncodeError:
        raise InvalidMail(f"{verb} argument {argument!r}: a lone surrogate cannot be encoded") from None
    if len(octets) + 2 > longest:
        raise InvalidMail(f"{verb}: the command line would be longer than {longest} octets")  # it may hold a secret
    return octets + b"\r\n"


class Command:
    """What all commands have. ``limit`` names the limit of the wait for its reply, ``replies`` its size.

    One that does not render itself is its verb and nothing else, rendered once.
    """

    __slots__ = ()
    _octets: ClassVar[bytes]
    limit: ClassVar[str] = "timeout"
    replies: ClassVar[ReplyLimits] = USUAL

    def __init_subclass__(cls) -> None:
        cls._octets = line(cls.__name__.upper())

    @property
    def verb(self) -> str:
        """The verb, which also names the stage of a refusal."""
        return type(self).__name__.upper()

    def render(self) -> bytes:
        """The octets for the wire."""
        return self._octets

    def __str__(self) -> str:
        """What may be shown: the line without its end, secrets masked."""
        return self.render().decode()[:-2]

    def show(self, reply: Reply) -> Reply:
        """What may be shown of the reply to this."""
        return reply


class Greeting(Command):
    """The greeting: nothing is said for it, but a reply is owed (RFC 5321 section 3.1)."""

    __slots__ = ()
    limit = "connect"

    def render(self) -> bytes:
        """Nothing."""
        return b""

    def __str__(self) -> str:
        return ""


class EndMark(Greeting):
    """The end of the mail data: never rendered here; its reply may take long (RFC 5321 section 4.5.3.2.6)."""

    __slots__ = ()
    limit = "final"


@dataclass(frozen=True, slots=True)
class Ehlo(Command):
    """EHLO (RFC 5321 section 4.1.1.1)."""

    name: str
    replies = ROOMY

    def render(self) -> bytes:  # noqa: D102
        return line(self.verb, self.name)


class Lhlo(Ehlo):
    """LHLO, the EHLO of LMTP (RFC 2033 section 4.1)."""

    __slots__ = ()


class Helo(Ehlo):
    """HELO, for servers without extensions."""

    __slots__ = ()


class StartTLS(Command):
    """STARTTLS (RFC 3207)."""

    __slots__ = ()


class _Exchange(Command):
    """A part of a SASL exchange: challenges are not shown, they may hold secrets."""

    __slots__ = ()
    replies = ROOMY

    def show(self, reply: Reply) -> Reply:
        return Reply(reply.code, (MASK,)) if reply.intermediate else reply


@dataclass(frozen=True, slots=True)
class Auth(_Exchange):
    """AUTH, with the initial response if there is one; an empty one is ``=`` (RFC 4954 section 4)."""

    mechanism: str
    initial: bytes | None = None

    def render(self) -> bytes:  # noqa: D102
        if self.initial is None:
            return line(self.verb, self.mechanism)
        response = base64.b64encode(self.initial).decode() or "="
        return line(self.verb, f"{self.mechanism} {response}", longest=12_288)

    @property
    def fits(self) -> bool:
        """Does the initial response fit on the line? Where not, it is sent after an empty challenge (RFC 4954 4)."""
        return self.initial is None or len(self.mechanism) + 9 + 4 * -(-len(self.initial) // 3) <= 12_288

    def __str__(self) -> str:
        return f"AUTH {self.mechanism}" + (f" {MASK}" if self.initial is not None else "")

    __repr__ = __str__


@dataclass(frozen=True, slots=True)
class Response(_Exchange):
    """The response to a SASL challenge; ``None`` gives the exchange up with ``*`` (RFC 4954 section 4)."""

    octets: bytes | None

    def render(self) -> bytes:  # noqa: D102
        if self.octets is None:
            return b"*\r\n"
        return base64.b64encode(self.octets) + b"\r\n"

    def __str__(self) -> str:
        return "*" if self.octets is None else MASK

    __repr__ = __str__


# What the parameters of MAIL and RCPT may add to a line of 512: SIZE 26 (RFC 1870), BODY 17 (RFC 6152), SMTPUTF8 10
# (RFC 6531), RET and ENVID 107 and 500 for RCPT (RFC 3461), and paths in UTF-8.
MAIL_LINE = 512 + 26 + 17 + 10 + 107 + 500
RCPT_LINE = 512 + 500 + 1500


@dataclass(slots=True)
class Mail(Command):
    """MAIL, with its parameters rendered already."""

    path: str
    parameters: tuple[str, ...] = ()

    def render(self) -> bytes:  # noqa: D102
        argument = f"FROM:<{self.path}>"
        if self.parameters:
            argument = " ".join((argument, *self.parameters))
        return line(self.verb, argument, longest=MAIL_LINE)


class Send(Mail):
    """SEND: to the user's terminal (RFC 821 section 3.4; RFC 5321 appendix F.6 calls it obsolete)."""

    __slots__ = ()


class Soml(Mail):
    """SOML: to the terminal, or to the mailbox if that cannot be."""

    __slots__ = ()


class Saml(Mail):
    """SAML: to the terminal and to the mailbox."""

    __slots__ = ()


Verb = Literal["MAIL", "SEND", "SOML", "SAML"]  # what a transaction may begin with
OPENINGS: dict[str, type[Mail]] = {"MAIL": Mail, "SEND": Send, "SOML": Soml, "SAML": Saml}


@dataclass(slots=True)
class Rcpt(Command):
    """RCPT, with its parameters rendered already."""

    path: str
    parameters: tuple[str, ...] = ()

    def render(self) -> bytes:  # noqa: D102
        argument = f"TO:<{self.path}>"
        if self.parameters:
            argument = " ".join((argument, *self.parameters))
        return line("RCPT", argument, longest=RCPT_LINE)


class Data(Command):
    """DATA."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Bdat(Command):
    """BDAT: so many octets follow at once (RFC 3030); its reply is one to mail data."""

    size: int
    last: bool
    limit = "final"

    def render(self) -> bytes:  # noqa: D102
        return line(self.verb, f"{self.size} LAST" if self.last else f"{self.size}")


class Rset(Command):
    """RSET."""

    __slots__ = ()


class Noop(Command):
    """NOOP."""

    __slots__ = ()


class Quit(Command):
    """QUIT."""

    __slots__ = ()
    limit = "farewell"


@dataclass(frozen=True, slots=True)
class Vrfy(Command):
    """VRFY (RFC 5321 section 3.5); with SMTPUTF8 where the text needs it (RFC 6531 section 3.7.4.2)."""

    text: str

    def __post_init__(self) -> None:
        text: Any = self.text
        if not isinstance(text, str) or not text.strip():
            raise InvalidMail(f"{self.verb}: a user or a list is a str such as bob@example.com, not {text!r:.80}")
        self.render()  # raises here what would break the session later

    def render(self) -> bytes:  # noqa: D102
        return line(self.verb, self.text if self.text.isascii() else f"{self.text} SMTPUTF8")


class Expn(Vrfy):
    """EXPN (RFC 5321 section 3.5)."""

    __slots__ = ()
    replies = ROOMY


_OWN_VERBS = {"DATA", "BDAT", "STARTTLS", "AUTH", "EHLO", "HELO", "LHLO", *OPENINGS, "RCPT", "QUIT"}


@dataclass(frozen=True, slots=True)
class Raw(Command):
    """A command of the caller's own, such as XCLIENT or HELP; verbs that change what is sent next are refused."""

    text: str
    replies = ROOMY

    def __post_init__(self) -> None:
        verb = self.text.split(" ", 1)[0].upper()
        if not (verb.isascii() and verb.isalnum()) or verb in _OWN_VERBS:
            shown = verb if verb in _OWN_VERBS else "of your own"  # the rest may be a secret
            raise InvalidMail(f"command {shown}: it begins with a verb, and none of {', '.join(sorted(_OWN_VERBS))}")
        self.render()

    @property
    def verb(self) -> str:  # noqa: D102
        return self.text.split(" ", 1)[0].upper()

    def render(self) -> bytes:  # noqa: D102
        verb, _, argument = self.text.partition(" ")
        return line(verb, argument, longest=2048)
