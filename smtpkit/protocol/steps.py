"""What a procedure yields, and what it may be told instead of a result.

A procedure is a generator. It yields steps; the channel performs them and sends back what came of each. A procedure
that returns leaves the session in step with the server; one that raises leaves it broken.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from smtpkit.errors import Refused, ServiceClosing, SMTPError
from smtpkit.protocol.command import Command
from smtpkit.protocol.mail_data import MailData
from smtpkit.protocol.reply import Reply


class Say:
    """Put commands into the channel; nothing is waited for, nothing comes back."""

    __slots__ = ("commands",)

    def __init__(self, *commands: Command) -> None:
        self.commands = commands


class Hear:
    """Wait for the reply to the oldest of this procedure's commands that is not answered yet. Comes back: Reply.

    ``most``: wait for the replies to so many of them. Comes back: a list of those that have arrived, at least one; one
    that closes the channel is the last of its list.
    """

    __slots__ = ("most",)

    def __init__(self, most: int = 0) -> None:
        self.most = most


@dataclass(slots=True)
class Transfer:
    """Send the mail data: in DATA form (transparency, end mark) or, with ``chunked``, in BDAT form.

    ``due`` is the number of replies the server owes after the last octet (LMTP: one a recipient).
    Comes back: Transferred.
    """

    mail_data: MailData
    chunked: bool = False
    due: int = 1


class Transferred(NamedTuple):
    """How many replies are due for a transfer, and whether all of the mail data went out.

    ``whole`` is False where the server answered before the last octet: the rest was held back.
    ``in_step`` is False where the server still waits for octets, so that nothing else may be said.
    """

    due: int
    whole: bool = True
    in_step: bool = True


class Secure:
    """Begin TLS here. Comes back: nothing. Octets already received beyond the last reply end the session."""

    __slots__ = ()


class Pass:
    """I have nothing more to say: the next procedure may speak; what is left is to hear."""

    __slots__ = ()


@dataclass(slots=True)
class Run:
    """Something heavy: done in a worker thread where others wait, inline where the caller blocks anyway."""

    function: Callable[[], Any]


HEAR = Hear()
PASS = Pass()

Step = Say | Hear | Transfer | Secure | Pass | Run

T = TypeVar("T")
Procedure = Generator[Step, Any, T]


class Lost(Exception):
    """Thrown into a procedure when the channel is over.

    ``cause`` says why. ``spoken``: its last octet was handed to the system. ``last_words``: replies that came without
    being owed, such as a 421 before the end.
    """

    def __init__(self, cause: SMTPError, *, spoken: bool, last_words: tuple[Reply, ...] = ()) -> None:
        super().__init__(cause)
        self.cause = cause
        self.spoken = spoken
        self.last_words = last_words

    @property
    def verdict(self) -> SMTPError:
        """The error to raise: the server's own last words explain more than the end of the stream."""
        for reply in self.last_words:
            if reply.negative:
                return (ServiceClosing if reply.closing else Refused)(reply, "last words")
        return self.cause
