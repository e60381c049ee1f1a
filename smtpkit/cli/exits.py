"""Exit codes: each is a class of outcome, numbered after sysexits.h where that has one."""

from smtpkit import (
    AuthenticationRefused,
    InDoubt,
    InvalidMail,
    Outcome,
    ProtocolViolation,
    SMTPError,
    UsageError,
)

ACCEPTED = 0
SOME_REFUSED = 1
USAGE = 64
INVALID = 65
REFUSED = 69
TRANSIENT = 75
VIOLATION = 76
LOGIN_REFUSED = 77
IN_DOUBT = 79  # sysexits.h has none for it
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it

TABLE = """\
exit codes:
    0   accepted for everyone
    1   refused for some, accepted for the others
   64   usage: the command line or the url is wrong
   65   the mail, or a file it is made of, cannot be used
   69   refused for good, or the server lacks what is needed (TLS too)
   75   not now: no connection, too slow, refused for the time being
   76   the server broke the protocol
   77   the login was refused
   79   in doubt: the connection was lost before the final reply,
        so the mail may have been accepted
  130   interrupted"""


def code_of(result: SMTPError | Outcome) -> int:
    """The exit code for what became of a mail. In doubt outweighs all: whoever repeats must know."""
    match result:
        case Outcome(in_doubt=(_, *_)) | SMTPError(outcome=Outcome(in_doubt=(_, *_))) | InDoubt():
            return IN_DOUBT
        case Outcome(error=SMTPError() as error):
            return code_of(error)
        case Outcome(refused=refused):
            return SOME_REFUSED if refused else ACCEPTED
        case UsageError():
            return USAGE
        case InvalidMail():
            return INVALID
        case ProtocolViolation():
            return VIOLATION
        case SMTPError(transient=True):
            return TRANSIENT
        case AuthenticationRefused():
            return LOGIN_REFUSED
    return REFUSED
