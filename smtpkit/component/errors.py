"""What the component raises: one type, with a number for what is wrong. The numbers are our own.

======= ===============================================================================================
100     MailPort cannot change while connected          162     the server broke the protocol
101     MailServer cannot change while connected        163     MailServer is not set
104     connected already                               164     From is not set
106     LocalPort cannot change while connected         165     no recipients
107     LocalHost cannot change while connected         166     busy: another method is running
108     a firewall property cannot change while connected
112     MaxLineLength cannot change while connected     167     the server lacks an extension that is needed
118     the firewall (proxy) refused or failed          168     a value that cannot be
161     the server said no (``reply``)                  169     a name that is none: no such setting
201     a limit of time ran out                         212     not connected
270     TLS could not be had, or not with the right peer
301     interrupted                                     302     the queue's directory or file failed
434     text that the code page cannot say              1120    the connection was lost
10061   no connection came about                        11001   the host name was not found
162     it is not known whether the mail was accepted: ``outcome.in_doubt`` says for whom
======= ===============================================================================================
"""

import errno

from smtpkit.errors import (
    ChannelLost,
    ConnectError,
    InDoubt,
    InvalidMail,
    NotSupported,
    ProtocolViolation,
    ProxyError,
    Refused,
    SMTPError,
    SpoolError,
    TimedOut,
    TLSError,
    UsageError,
)
from smtpkit.protocol.reply import Reply

BUSY, VALUE, NAME, NOT_CONNECTED, CONNECTED, INTERRUPTED, QUEUE = 166, 168, 169, 212, 104, 301, 302
NO_SERVER, NO_SENDER, NO_RECIPIENT, CODE_PAGE, NOT_FOUND, LOST, REFUSED = 163, 164, 165, 434, 11001, 1120, 10061
_ENDED = {errno.ECONNRESET, errno.ECONNABORTED, errno.ENOTCONN, errno.EPIPE}  # it had come about, for a moment

# The first class that fits counts.
CODES: tuple[tuple[type[SMTPError], int], ...] = (
    (Refused, 161),
    (ProtocolViolation, 162),
    (InDoubt, 162),
    (TimedOut, 201),
    (ProxyError, 118),
    (TLSError, 270),
    (ConnectError, REFUSED),
    (ChannelLost, LOST),
    (NotSupported, 167),
    (SpoolError, QUEUE),
    (InvalidMail, VALUE),
    (UsageError, VALUE),
)


class ComponentError(SMTPError):
    """What a method or an assignment of the component raises.

    ``code`` is a number of the table of errors, ``message`` says it in words, ``reply`` is the server's, if it said no.
    ``outcome`` says what became of a mail; ``__cause__`` is the library's error.
    """

    reply: Reply | None = None

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.args = (code, message)

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"

    def reword(self, message: str) -> "ComponentError":
        """Say it with other words."""
        self.message = message
        self.args = (self.code, message)
        return self


def told(error: SMTPError) -> ComponentError:
    """An error of the library as one of the component."""
    if isinstance(error, ComponentError):
        return error
    code = next((code for kind, code in CODES if isinstance(error, kind)), 162)
    if type(error.__cause__).__name__ == "gaierror":
        code = NOT_FOUND
    elif code == REFUSED and getattr(error.__cause__, "errno", None) in _ENDED:
        code = LOST
    ours = ComponentError(code, str(error))
    ours.__cause__ = error
    ours.transient, ours.outcome = error.transient, error.outcome
    if isinstance(error, Refused):
        ours.reply = error.reply
    return ours
