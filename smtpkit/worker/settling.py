"""How the file of a mail is settled after an attempt: a plan, which is pure, and what carries it out.

The notes of a file: ``attempts``, how often its mail was tried; ``said``, what was said last; ``refused``, who was
refused for good and by what words. Those stay on its envelope, are not asked again, and at last make it ``.failed``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from smtpkit.errors import Outcome, SpoolError
from smtpkit.message.message import Prepared
from smtpkit.protocol.envelope import ForwardPath
from smtpkit.retry import Retry
from smtpkit.spool import Entry


class Plan(NamedTuple):
    """How a file is to be settled: its state then, who has the mail, its notes, and until when it is put off."""

    state: Literal["sent", "queued", "sending", "failed"]
    accepted: tuple[str, ...]
    notes: Mapping[str, Any]
    until: float | None = None
    in_doubt: bool = False  # may anybody else have the mail?


def planned(entry: Entry, outcome: Outcome, *, retry: Retry, age: float, now: float, chance: float) -> Plan:
    """What is to be done with a file after an attempt. The mail is ``age`` seconds old; ``now`` is since 1970."""
    tried, attempts = unrefused(entry), attempts_of(entry.notes) + 1
    again = retry.again(
        outcome,
        [path.address for path in tried],
        required=[path.address for path in tried if path.required],
        attempts=attempts,
        age=age,
        chance=chance,
    )
    left = again.recipients if again is not None else ()
    words = {
        path.address: str(outcome.refused.get(path.address, outcome.error))
        for path in tried
        if path.address not in outcome.accepted and path.address not in outcome.in_doubt
    }
    lost = _refused(entry) | {path: text for path, text in words.items() if path not in left}
    said = str(outcome.error) if outcome.error is not None else "; ".join(f"<{p}> {w}" for p, w in words.items())
    notes = {"attempts": attempts, "said": said} | ({"refused": lost} if lost else {})
    if outcome.in_doubt and not set(outcome.in_doubt) <= set(left):
        return Plan("sending", outcome.accepted, notes, in_doubt=True)
    if again is not None:
        return Plan("queued", outcome.accepted, notes, now + again.pause, in_doubt=outcome.in_doubt != ())
    return Plan("failed" if lost else "sent", outcome.accepted, notes)


async def prepared(entry: Entry) -> Prepared:
    """The mail of an entry, for whom it is still to be sent to."""
    envelope = replace(entry.envelope, forward_paths=unrefused(entry))
    return Prepared(envelope, entry.mail_data, entry.message_id, entry.path)


def attempts_of(notes: Mapping[str, Any]) -> int:
    """How often a mail was tried, by its notes."""
    attempts = notes.get("attempts")
    return attempts if isinstance(attempts, int) else 0


def _refused(entry: Entry) -> dict[str, str]:
    """Who was refused for good by earlier attempts, and by what words."""
    noted = entry.notes.get("refused")
    refused = noted if isinstance(noted, dict) else {}
    return {path.address: refused[path.address] for path in entry.envelope.forward_paths if path.address in refused}


def unrefused(entry: Entry) -> tuple[ForwardPath, ...]:
    """Whom the mail is still to be sent to."""
    refused = _refused(entry)
    return tuple(path for path in entry.envelope.forward_paths if path.address not in refused)


def carry_out(entry: Entry, plan: Plan, *, keep: bool) -> None:
    """Settle a file as planned. Raises SpoolError.

    Where it cannot be written down who has the mail, it has failed, or is in doubt: who tried it again would send it to
    them again, and so would each run after that.
    """
    if plan.state == "sent":
        entry.sent(keep=keep)
        return
    try:
        entry.served(plan.accepted, notes=plan.notes)
    except SpoolError:
        if plan.accepted:
            plan = plan._replace(state="sending" if plan.in_doubt else "failed")
        _let_rest(entry, plan)
        raise
    _let_rest(entry, plan)


def forget(entry: Entry) -> None:
    """Forget what was noted of a mail by those who tried it. Raises SpoolError: it is as it was then."""
    try:
        entry.served((), notes={})
    except SpoolError:
        put_back(entry)
        raise


def put_back(entry: Entry) -> None:
    """Let a file be what it was before it was taken. Raises SpoolError."""
    if entry.in_doubt:
        entry.leave()
    else:
        entry.give_back()


def _let_rest(entry: Entry, plan: Plan) -> None:
    if plan.state == "queued":
        entry.give_back(until=plan.until)
    elif plan.state == "failed":
        entry.failed()
    else:
        entry.leave()
