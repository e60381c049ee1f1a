"""Procedures: the pieces of dialogue of RFC 5321 section 3, each a generator that yields steps.

A procedure that returns leaves the session in step with the server; one that raises leaves it broken. Procedures judge
replies by their first digit; 421 is never a verdict on a mail or a path, it is the end of the channel.
"""

import base64
from collections.abc import Generator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any, NoReturn

from smtpkit.errors import (
    AuthenticationRefused,
    DataRefused,
    InDoubt,
    NotSupported,
    Outcome,
    ProtocolViolation,
    RecipientsRefused,
    Refused,
    SenderRefused,
    ServiceClosing,
    SMTPError,
)
from smtpkit.protocol import sasl
from smtpkit.protocol.command import (
    OPENINGS,
    Auth,
    Bdat,
    Command,
    Data,
    Ehlo,
    Expn,
    Greeting,
    Helo,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Raw,
    Rcpt,
    Response,
    Rset,
    StartTLS,
    Verb,
    Vrfy,
)
from smtpkit.protocol.envelope import Envelope, ForwardPath, utf8_addr_unitext, utf8_addr_xtext, xtext
from smtpkit.protocol.extension import NOTHING, Extensions
from smtpkit.protocol.mail_data import MailData
from smtpkit.protocol.mechanism import Identity, Mechanism
from smtpkit.protocol.reply import Reply
from smtpkit.protocol.steps import HEAR, PASS, Hear, Lost, Procedure, Run, Say, Secure, Step, Transfer, Transferred

# More commands than this are never unanswered at once: their replies would fill the buffers between us.
MOST_UNANSWERED = 200
MOST_CHALLENGES = 8
SMALL = 65_536  # octets of mail data that may follow BDAT before anybody is known to be accepted

_EMPTY = MailData.of(b"")
_UNKNOWN_VERB = (500, 502, 504)


def _hear(stage: str) -> Generator[Step, Reply, Reply]:
    """The next reply; 421 raises."""
    reply = yield HEAR
    if reply.closing:
        raise ServiceClosing(reply, stage)
    return reply


def ask(command: Command) -> Generator[Step, Reply, Reply]:
    """One command, one reply."""
    yield Say(command)
    return (yield from _hear(command.verb))


def _leave() -> Generator[Step, Any, None]:
    """Say QUIT before the session is given up, as RFC 5321 section 4.1.1.10 asks; what comes of it is all one."""
    yield Say(Quit())
    with suppress(Lost):
        yield HEAR


def greeting() -> Procedure[Reply]:
    """The server speaks first. Raises Refused for a no (554: no service here; RFC 5321 section 3.1)."""
    yield Say(Greeting())
    reply = yield from _hear("greeting")
    if reply.negative:
        yield from _leave()
        raise Refused(reply, "greeting")
    if not reply.positive:
        raise ProtocolViolation(f"{reply}: no greeting")
    return reply


def hello(name: str, *, lmtp: bool = False, fall_back: bool = True) -> Procedure[Extensions]:
    """EHLO, or LHLO; HELO where EHLO is refused for good and ``fall_back`` allows it (RFC 5321 section 3.2)."""
    said: Command = Lhlo(name) if lmtp else Ehlo(name)
    reply = yield from ask(said)
    if reply.positive:
        return Extensions.of(reply)
    if reply.permanent and fall_back and not lmtp:
        return (yield from plain_hello(name))
    return (yield from _unwelcome(said, reply))


def plain_hello(name: str) -> Procedure[Extensions]:
    """HELO, for a session without extensions (RFC 5321 section 4.1.1.1)."""
    said = Helo(name)
    reply = yield from ask(said)
    if reply.positive:
        return NOTHING
    return (yield from _unwelcome(said, reply))


def _unwelcome(said: Command, reply: Reply) -> Generator[Step, Any, NoReturn]:
    """The server does not take our hello."""
    if reply.intermediate:
        raise ProtocolViolation(f"{said.verb} answered by {reply}")
    yield from _leave()
    raise Refused(reply, said.verb)


def secure() -> Procedure[Reply]:
    """STARTTLS, and TLS if the server says 220 (RFC 3207). A refusal comes back as the reply."""
    reply = yield from ask(StartTLS())
    if reply.code == 220:
        yield Secure()
    elif not reply.negative:
        raise ProtocolViolation(f"STARTTLS answered by {reply}; only 220 begins TLS (RFC 3207 section 4)")
    return reply


def authenticate(name: str, who: Identity) -> Procedure[AuthenticationRefused | None]:
    """One SASL exchange (RFC 4954). Returns None once logged in, or the refusal, which leaves the session in step.

    Raises ProtocolViolation for challenges that cannot be answered, and for a yes without the proof that is due.
    """
    row = sasl.MECHANISMS[name]
    mechanism = row.mechanism(who)
    initial = yield from _respond(mechanism, None)
    command = Auth(name, initial)
    waiting: bytes | None = None  # an initial response too long for the line follows an empty challenge
    if not command.fits:
        command, waiting = Auth(name), initial
    reply = yield from ask(command)
    challenge: bytes | None = None
    violation = ProtocolViolation(f"AUTH {name}: a challenge that has no answer")
    for _ in range(MOST_CHALLENGES):
        if not reply.intermediate:
            break
        challenge = _decoded(reply.text)
        response, waiting = waiting, None
        if response is None and challenge is not None:
            try:
                response = yield from _respond(mechanism, challenge)
            except ProtocolViolation as found:
                violation = found
        if response is None:
            break
        reply = yield from ask(Response(response))
    if reply.intermediate:
        yield from ask(Response(None))
        raise violation
    if reply.negative:
        return AuthenticationRefused(reply, "AUTH", challenge=challenge)
    if row.mutual:
        _conclude(name, mechanism, reply)
    return None


def _decoded(text: str) -> bytes | None:
    """What a base64 text stands for, read strictly; None if it is none."""
    try:
        return base64.b64decode(text.encode(), validate=True)
    except ValueError:
        return None


def _respond(mechanism: Mechanism, challenge: bytes | None) -> Generator[Step, Any, bytes | None]:
    """The response to a challenge, or None if the mechanism has none; it may have to run something first."""
    try:
        said = mechanism.send(challenge)
        while isinstance(said, Run):
            said = mechanism.send((yield said))
    except StopIteration as end:
        last: bytes | None = end.value
        return last
    return said


def _conclude(name: str, mechanism: Mechanism, reply: Reply) -> None:
    """The server says yes, perhaps with its proof as the last word. Raises ProtocolViolation if a proof is missing."""
    try:
        mechanism.send(_decoded(reply.text.rpartition(" ")[2]) or None)
    except StopIteration:
        return
    raise ProtocolViolation(f"AUTH {name}: the server says yes in the middle of the exchange")


def _answer(command: Command) -> Procedure[Reply]:
    """A command to which every reply is an answer, but one that asks for more."""
    reply = yield from ask(command)
    if reply.intermediate:
        raise ProtocolViolation(f"{reply}: the server waits for more, which a single command cannot give")
    return reply


def verify(text: str) -> Procedure[Reply]:
    """VRFY; every reply is an answer (RFC 5321 section 3.5.3). Raises InvalidMail at once, before the procedure."""
    return _answer(Vrfy(text))


def expand(text: str) -> Procedure[Reply]:
    """EXPN; every reply is an answer. Raises InvalidMail at once."""
    return _answer(Expn(text))


def noop() -> Procedure[Reply]:
    """NOOP."""
    return _answer(Noop())


def command(text: str) -> Procedure[Reply]:
    """A command of the caller's own; every reply is an answer. Raises InvalidMail at once."""
    return _answer(Raw(text))


def probe(*, chunking: bool) -> Procedure[bool]:
    """RSET, said where nobody knows whether the server hears what follows mail data at once; no mail depends on it.

    With ``chunking`` an empty BDAT outside of a transaction follows: whoever knows the verb answers 503 (RFC 3030
    section 2), and whoever does not would have taken mail data for commands. Returns whether BDAT is known.
    """
    commands: list[Command] = [Rset(), Bdat(0, last=True)] if chunking else [Rset()]
    yield Say(*commands)
    yield PASS
    reply = yield from _hear("RSET")
    if not reply.positive:
        raise Refused(reply, "RSET")
    if chunking:
        reply = yield from _hear("BDAT")
        if reply.intermediate:
            raise ProtocolViolation(f"BDAT answered by {reply}")
    return chunking and reply.code not in _UNKNOWN_VERB


def termination() -> Procedure[Reply]:
    """QUIT; the reply is of no consequence (RFC 5321 section 4.1.1.10), nor is the lack of one."""
    yield Say(Quit())
    reply: Reply = yield HEAR
    return reply


def _parameters(envelope: Envelope, data: MailData, offered: Extensions) -> tuple[str, ...]:
    """The parameters of MAIL: what it tells of the mail. Raises NotSupported."""
    parameters = []
    if data.size is not None and "SIZE" in offered.keywords:
        parameters.append(f"SIZE={data.size}")
    if data.raw:
        parameters.append(_needed("BINARYMIME", "BODY=BINARYMIME", offered))
    elif data.eight_bit is not False:
        if "8BITMIME" in offered:
            parameters.append("BODY=8BITMIME")
        elif data.eight_bit:
            raise lacking("8BITMIME", "BODY=8BITMIME is needed by this mail")
    if envelope.utf8:
        parameters.append(_needed("SMTPUTF8", "SMTPUTF8", offered))
    if envelope.require_tls:
        parameters.append(_needed("REQUIRETLS", "REQUIRETLS", offered))
    if envelope.ret:
        parameters.append(_needed("DSN", f"RET={envelope.ret}", offered))
    if envelope.envelope_id:
        parameters.append(_needed("DSN", f"ENVID={xtext(envelope.envelope_id)}", offered))
    return tuple(parameters)


def _needed(extension: str, text: str, offered: Extensions) -> str:
    """A parameter that this mail cannot do without."""
    if extension not in offered:
        raise lacking(extension, f"{text} is needed by this mail")
    return text


def lacking(extension: str, why: str) -> NotSupported:
    """The error for an extension that is needed and not offered."""
    return NotSupported(f"the server does not offer {extension}: {why}", extension=extension)


def _recipient(path: ForwardPath, envelope: Envelope, offered: Extensions) -> Rcpt:
    if not path.notify and path.original is None:
        return Rcpt(path.address)
    parameters = []
    if path.notify:
        parameters.append(f"NOTIFY={','.join(path.notify)}")
    if path.original is not None:
        if path.original.isascii():
            parameters.append(f"ORCPT=rfc822;{xtext(path.original)}")
        else:
            encode = utf8_addr_unitext if envelope.utf8 else utf8_addr_xtext
            parameters.append(f"ORCPT=utf-8;{encode(path.original)}")
    if "DSN" not in offered:
        raise lacking("DSN", f"{parameters[0]} was asked for <{path.address}>")
    return Rcpt(path.address, tuple(parameters))


@dataclass(slots=True)
class Plan:
    """A transaction, ready to be said to a server that offers what it needs."""

    mail: Mail
    recipients: tuple[Rcpt, ...]
    required: frozenset[str]
    mail_data: MailData
    chunked: bool
    pipelining: bool
    lmtp: bool
    message_id: str | None = None
    item: object = None

    @property
    def joined(self) -> bool:
        """Do DATA or BDAT go with MAIL and RCPT? Once the server has said 354 there is no taking it back."""
        if not self.pipelining or (self.required and len(self.recipients) > 1):
            return False
        if self.chunked:
            return not self.lmtp and self.mail_data.size is not None and self.mail_data.size <= SMALL
        return True


def plan(
    envelope: Envelope,
    mail_data: MailData,
    offered: Extensions,
    *,
    chunked: bool = False,
    binary: bool = False,
    lmtp: bool = False,
    message_id: str | None = None,
    item: object = None,
    verb: Verb = "MAIL",
) -> Plan:
    """Fit a mail to what the server offers. Raises NotSupported before anything is said.

    ``binary``: by BINARYMIME, which needs BDAT (RFC 3030 section 3), where it is offered and the mail has such a form.
    """
    if binary and mail_data.binary is not None and "BINARYMIME" in offered and "CHUNKING" in offered:
        mail_data = mail_data.binary()
    chunked = chunked or mail_data.raw
    if mail_data.eight_bit and "8BITMIME" not in offered and mail_data.seven_bit is not None and not envelope.utf8:
        mail_data = mail_data.seven_bit()
    if offered.size is not None and mail_data.size is not None and mail_data.size > offered.size:
        raise NotSupported(
            f"the mail has {mail_data.size} octets, the server takes at most {offered.size}", extension="SIZE"
        )
    if verb != "MAIL" and verb not in offered:
        raise lacking(verb, "most servers no longer deliver to terminals (RFC 5321 appendix F.6)")
    if chunked and "CHUNKING" not in offered:
        raise lacking("CHUNKING", 'chunking="always" was asked for')
    return Plan(
        OPENINGS[verb](envelope.reverse_path, _parameters(envelope, mail_data, offered)),
        tuple([_recipient(path, envelope, offered) for path in envelope.forward_paths]),
        frozenset([path.address for path in envelope.forward_paths if path.required]),
        mail_data,
        chunked,
        "PIPELINING" in offered.keywords,
        lmtp,
        message_id,
        item,
    )


class _Verdict:
    """What a transaction has come to know so far."""

    __slots__ = ("accepted", "data", "doubt", "error", "final", "plan", "refused", "replies", "sender")

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sender: Reply | None = None  # the refusal of MAIL
        self.accepted: list[str] = []  # by RCPT; of worth once the mail data is accepted
        self.refused: dict[str, Reply] = {}
        self.data: Reply | None = None  # the reply to DATA
        self.replies: dict[str, Reply] = {}  # LMTP: to the mail data, for each path
        self.final: Reply | None = None
        self.doubt = False  # the server may have all of it once all is spoken, and we not its reply
        self.error: SMTPError | None = None  # known, and not to be changed by what follows

    def judge(self, command: Command, reply: Reply) -> None:
        """Take in the reply to a command of the group. Raises what ends the session."""
        if reply.positive and not isinstance(command, Data):
            if isinstance(command, Rcpt):
                self.accepted.append(command.path)
            return
        if reply.closing:
            raise ServiceClosing(reply, command.verb)
        match command:
            case Data():
                self.data = reply
            case Mail() if reply.negative:
                self.sender = reply
            case Rcpt() if reply.negative:
                if self.sender is None:
                    self.refused[command.path] = reply
            case Rset():
                raise Refused(reply, "RSET")
            case _:
                raise ProtocolViolation(f"{command.verb} answered by {reply}")

    @property
    def stopped(self) -> SMTPError | None:
        """Why the mail data shall not go out, or None."""
        if self.sender is None and not self.refused:
            return None
        if self.sender is not None:
            return SenderRefused(self.sender, "MAIL")
        if len(self.refused) == len(self.plan.recipients) or not self.plan.required.isdisjoint(self.refused):
            return RecipientsRefused(dict(self.refused))
        return None

    def lost(self, lost: Lost) -> SMTPError:
        """What the end of the channel means for this mail; the server's last words are its verdict."""
        verdict = lost.verdict
        if verdict.outcome is not None:  # it is another mail's error too
            verdict = copy(verdict)
        if verdict is not lost.cause and type(verdict) is Refused:
            verdict = DataRefused(verdict.reply, "mail data")
        return self.ended(verdict, spoken=lost.spoken)

    def ended(self, why: SMTPError, *, spoken: bool = True) -> SMTPError:
        """The error of a session that is over: what was known before, or ``why``; in doubt if that answers nothing."""
        known = self.error or self.stopped
        if known is not None:
            return known
        if self.doubt and spoken and not isinstance(why, DataRefused | ServiceClosing):
            error = InDoubt(f"{why}; the mail was sent whole and its reply is not known: it may be accepted")
            error.__cause__ = why
            return error
        return why

    @property
    def unsettled(self) -> tuple[str, ...]:
        """The paths without a verdict."""
        paths = (recipient.path for recipient in self.plan.recipients)
        return tuple(path for path in paths if path not in self.refused and path not in self.replies)

    def outcome(self, error: SMTPError | None) -> Outcome:
        """What has become of the mail."""
        plan = self.plan
        refused = self.refused
        in_doubt: tuple[str, ...] = ()
        accepted = tuple(self.accepted) if error is None else ()
        if plan.lmtp:
            accepted = tuple([path for path, reply in self.replies.items() if reply.positive])
            refused = refused | {path: reply for path, reply in self.replies.items() if not reply.positive}
        if isinstance(error, SenderRefused | DataRefused):
            refused = refused | dict.fromkeys(self.unsettled, error.reply)
        elif isinstance(error, InDoubt):
            in_doubt = self.unsettled
        reply = self.final or (error.reply if isinstance(error, Refused) else None)
        outcome = Outcome(accepted, refused, in_doubt, reply, self.replies, plan.message_id, plan.item, error)
        if error is not None:
            error.outcome = outcome
        return outcome


def transaction(plan: Plan, *, reset: bool = False) -> Procedure[Outcome]:
    """One mail transaction (RFC 5321 section 3.3). ``reset`` leads it with RSET, where an earlier one may be open.

    Returns the outcome, with ``error`` where nobody was served or it is in doubt; the session is in step, and unless
    the mail data was answered the transaction is still open. Raises what ends the session, with ``outcome``.
    """
    verdict = _Verdict(plan)
    try:
        error = yield from _transact(plan, verdict, reset=reset)
    except Lost as lost:
        error = verdict.lost(lost)
    except SMTPError as fatal:
        known = verdict.ended(fatal)
        verdict.outcome(known)
        raise known from (None if known is fatal else fatal)
    return verdict.outcome(error)


def _transact(plan: Plan, verdict: _Verdict, *, reset: bool) -> Generator[Step, Any, SMTPError | None]:
    group: list[Command] = [Rset()] if reset else []
    group += (plan.mail, *plan.recipients)
    joined = plan.joined
    if joined and not plan.chunked:
        group.append(Data())
    transferred: Transferred | None = None
    most = MOST_UNANSWERED if plan.pipelining else 1
    for start in range(0, len(group), most):
        if verdict.stopped is not None:
            break
        said = group[start : start + most]
        yield Say(*said)
        if joined and plan.chunked and start + most >= len(group):
            verdict.doubt = True
            transferred = yield Transfer(plan.mail_data, chunked=True)
            if transferred.whole:
                yield PASS
        heard = 0
        while heard < len(said):
            for reply in (yield Hear(len(said) - heard)):
                verdict.judge(said[heard], reply)
                heard += 1
    if (error := verdict.stopped) is not None:
        verdict.error = error
        if transferred is not None:
            yield from _final(verdict, transferred)
        elif verdict.data is not None and not verdict.data.negative:
            yield from _end_empty(verdict, error)
        return error
    if transferred is None:
        if not plan.chunked:
            reply = verdict.data or (yield from ask(Data()))
            if reply.negative:
                return DataRefused(reply, "DATA")
            if not reply.intermediate:
                raise ProtocolViolation(f"DATA answered by {reply}")
        verdict.doubt = True
        transferred = yield Transfer(plan.mail_data, plan.chunked, len(verdict.accepted) if plan.lmtp else 1)
        if transferred.whole:
            yield PASS
    return (yield from _final(verdict, transferred))


def _end_empty(verdict: _Verdict, error: SMTPError) -> Generator[Step, Any, None]:
    """354 although nobody was accepted: a lone dot is refused by the server (RFC 2920 section 3.1).

    Where MAIL was refused a dot might deliver an empty mail, and LMTP owes no reply to it: the session is dropped.
    """
    if verdict.sender or verdict.plan.lmtp or not (verdict.data and verdict.data.intermediate):
        raise error
    transferred: Transferred = yield Transfer(_EMPTY)
    reply = yield from _hear("mail data")
    if not (reply.negative and transferred.in_step):
        raise error


def _final(verdict: _Verdict, transferred: Transferred) -> Generator[Step, Any, SMTPError | None]:
    """Hear what is due for the mail data."""
    verdict.doubt = transferred.whole
    paths = verdict.accepted if verdict.plan.lmtp else ()
    error: SMTPError | None = verdict.error
    for left in range(transferred.due, 0, -1):
        reply = yield HEAR
        verdict.final = reply
        if reply.closing:
            raise ServiceClosing(reply, "mail data")
        if reply.intermediate or not (transferred.in_step or reply.negative):
            early = "" if transferred.whole else " before its end"
            raise ProtocolViolation(f"mail data answered by {reply}{early}")
        if transferred.whole and left <= len(paths):
            verdict.replies[paths[len(paths) - left]] = reply
            if not any(reply.positive for reply in verdict.replies.values()) and left == 1:
                error = DataRefused(reply, "mail data")
        elif reply.negative:
            error = verdict.error = error or DataRefused(reply, "mail data")
            if not transferred.in_step or paths:
                raise error
    return error
