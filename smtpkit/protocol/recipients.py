"""Which recipients go in which transaction, where the server takes fewer at a time than a mail has.

Its limits are announced (LIMITS, RFC 9422) or shown by a 452 after some were accepted (RFC 5321 section 4.5.3.1.10).
Rules: the paths keep their order; all else of the envelope stays the same in each transaction; each path is said again
only behind a transaction that accepted somebody, so that it ends. What cannot be split is not: an envelope with a
required path, since once a part is accepted there is no taking it back; and mail data that can be told once only.
"""

from collections.abc import Collection, Iterable
from dataclasses import replace
from math import inf

from smtpkit.errors import DataRefused, NotSupported, Outcome, RecipientsRefused, SenderRefused, SMTPError
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.extension import Extensions
from smtpkit.protocol.procedures import lacking
from smtpkit.protocol.reply import Reply


def domain(path: ForwardPath) -> str:
    """The domain of a path, as domains are compared."""
    return path.address.rpartition("@")[2].lower()


def first(
    envelope: Envelope,
    offered: Extensions,
    *,
    one_shot: bool = False,
    named: Collection[str] = (),
    most: float = inf,
) -> Envelope | None:
    """The envelope for the next transaction: as many of the paths as the server takes; None where this session has
    named so many domains already that none of the paths fits, so that another one is needed.

    ``named`` are the domains that the session has named before: RCPTDOMAINMAX counts them over all its transactions
    (RFC 9422). ``most``: what the server took at most, where it has shown that (``taken``). Raises NotSupported, before
    anything is said, where the envelope would have to be split and cannot be: a path is required, or the mail data can
    be told once only (``one_shot``).
    """
    limits, paths = offered.limits, envelope.forward_paths
    announced, domains = limits.get("RCPTMAX", inf), limits.get("RCPTDOMAINMAX", inf)
    if domains == inf and len(paths) <= min(most, announced):
        return envelope
    unsplit = one_shot or _required(envelope)
    if unsplit and (len(paths) > announced or (domains < inf and len({*map(domain, paths)}) > domains)):
        why = "its data can be told once only" if one_shot else "all its recipients or none of them are to get it"
        shown = " ".join(f"{name}={limit}" for name, limit in limits.items() if name != "MAILMAX")
        raise NotSupported(
            f"the mail is for {len(paths)} recipients, which the server does not take at once (LIMITS {shown}), "
            f"and it cannot go in several transactions, since {why}",
            extension="LIMITS",
        )
    fit = paths if domains == inf else _within(paths, domains, named)
    if unsplit:
        return envelope if len(fit) == len(paths) else None
    fit = fit[: int(min(most, announced, len(fit)))]
    if len(fit) < len(paths) and envelope.dsn and "DSN" not in offered:  # known before a part of it has gone out
        raise lacking("DSN", "delivery notifications were asked for")
    return replace(envelope, forward_paths=fit) if fit else None


def rest(envelope: Envelope, part: Envelope, outcome: Outcome, *, one_shot: bool = False) -> Envelope | None:
    """What is left of an envelope after a transaction with a part of it, for another transaction; None if nothing is.

    Left are the paths not said yet, and those refused for their number. Nothing is left where the whole mail was
    refused (at MAIL, at DATA, for its data), where the channel failed, and where the envelope cannot be split.
    """
    known = outcome.error is None or isinstance(outcome.error, RecipientsRefused | DataRefused)
    if not known or _of_all(outcome) is not None or one_shot or _required(envelope):
        return None
    settled = {path.address for path in part.forward_paths}.difference(_too_many(part, outcome))
    left = tuple([path for path in envelope.forward_paths if path.address not in settled])
    return replace(envelope, forward_paths=left) if left else None


def taken(part: Envelope, outcome: Outcome) -> float:
    """How many paths the server takes in a transaction, as this one has shown; inf if it has not shown it."""
    beyond = _too_many(part, outcome)
    return [path.address for path in part.forward_paths].index(beyond[0]) if beyond else inf


def _too_many(part: Envelope, outcome: Outcome) -> list[str]:
    """The paths that were refused only because there were too many before them.

    They come behind the last that was accepted, and 452 says so; so does 552 by servers that follow RFC 821 (RFC 5321
    section 4.5.3.1.10). An enhanced code may say that it is something else, such as a full mailbox.
    """
    beyond: list[str] = []
    for path in reversed(part.forward_paths) if outcome.accepted else ():
        reply = outcome.refused.get(path.address)
        if reply is None or path.address in outcome.replies:
            break
        enhanced = reply.enhanced
        if reply.code in {452, 552} and (enhanced is None or enhanced[1:] == (5, 3)):
            beyond.append(path.address)
    return beyond[::-1]


def _of_all(outcome: Outcome) -> Reply | None:
    """The reply that refuses the mail for whomever it is; by LMTP each has one of his own."""
    match outcome.error:
        case SenderRefused(reply=reply):
            return reply
        case DataRefused(reply=reply) if not outcome.replies:
            return reply
    return None


def merged(envelope: Envelope, earlier: Outcome, later: Outcome) -> Outcome:
    """One outcome for the transactions of a mail: that of the ``earlier`` ones (``Outcome()`` for none), and the last.

    * A later verdict on a path, or its being in doubt, counts instead of an earlier one. A refusal of the whole mail
      (at MAIL, at DATA, for its data) holds for the paths without a verdict, as it does in a single transaction.
    * ``reply`` is the last there was. ``replies`` are joined.
    * ``error`` is that of a single transaction: InDoubt where a path is in doubt; else, where a path has no verdict,
      what the last transaction ended with; else none where anybody was accepted; else RecipientsRefused with all of
      them where no transaction came further than RCPT, or the error of the last one that did. It has this outcome.
    """
    accepted, in_doubt = earlier.accepted + later.accepted, earlier.in_doubt + later.in_doubt
    served = {*later.accepted, *later.in_doubt}
    refused = {path: reply for path, reply in earlier.refused.items() if path not in served} | dict(later.refused)
    unsettled = _without(envelope, (*accepted, *in_doubt, *refused))
    if (reply := _of_all(later)) is not None:
        refused |= dict.fromkeys(unsettled, reply)
        unsettled = ()
    error = later.error
    if not (unsettled or in_doubt):
        error = None if accepted else _nobody(earlier.error, error, refused)
    outcome = replace(
        later,
        accepted=accepted,
        refused=refused,
        in_doubt=in_doubt,
        reply=later.reply or earlier.reply,
        replies={**earlier.replies, **later.replies},
        message_id=later.message_id or earlier.message_id,
        error=error,
    )
    if error is not None:
        error.outcome = outcome
    return outcome


def _nobody(earlier: SMTPError | None, later: SMTPError | None, refused: dict[str, Reply]) -> SMTPError | None:
    """The error of a mail that everybody was refused."""
    if isinstance(later, RecipientsRefused):
        return earlier if isinstance(earlier, DataRefused) else RecipientsRefused(refused)
    return later or earlier


def _required(envelope: Envelope) -> bool:
    return any(path.required for path in envelope.forward_paths)


def _without(envelope: Envelope, verdicts: Iterable[str]) -> tuple[str, ...]:
    """The paths that have no verdict."""
    known = set(verdicts)
    return tuple([path.address for path in envelope.forward_paths if path.address not in known])


def _within(paths: tuple[ForwardPath, ...], most: float, named: Collection[str]) -> tuple[ForwardPath, ...]:
    """The paths by which a session that has named some domains comes to name no more than so many."""
    domains, fit = set(named), []
    for path in paths:
        if domain(path) in domains or len(domains) < most:
            domains.add(domain(path))
            fit.append(path)
    return tuple(fit)
