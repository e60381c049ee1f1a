"""What a ledger says about each forward-path of a mail, how an outcome changes that, and how it is counted: pure.

The states: ``under_way`` was handed out; ``accepted`` and ``refused`` are final; ``deferred`` was certainly not
served, for now; ``in_doubt`` may have been; ``waiting`` was handed out and given back, so that nothing was begun.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from smtpkit.errors import DataRefused, InDoubt, InvalidMail, Outcome, RecipientsRefused, SenderRefused, SMTPError
from smtpkit.message.message import Prepared

State = Literal["accepted", "refused", "deferred", "in_doubt", "waiting", "under_way"]

STATES: tuple[State, ...] = get_args(State)
AGAIN: frozenset[State] = frozenset({"deferred", "waiting"})  # what the next run sends
LONGEST_KIND = 120  # characters
MOST_KINDS = 1000
OTHERS = "…"  # the kinds beyond those

_VERDICTS = (SenderRefused, RecipientsRefused, DataRefused)  # on the mail; a refused login is none
_KIND = re.compile(r"(\d{3}(?: \d\.\d{1,3}\.\d{1,3}(?!\S))?)?(.*)", re.DOTALL)
_PARTICULAR = re.compile(r"<[^<>]*>|[^\s/]*[@\d]\S*")


class Row(NamedTuple):
    """What became of a mail for one forward-path; ``address`` is "" for a mail that could not be read.

    ``reply`` is the server's, or the error, in words. ``run`` counts the runs of a ledger: this was its last.
    """

    key: int | str
    address: str
    message_id: str | None
    state: State
    reply: str | None
    run: int


class Change(NamedTuple):
    """A row that changes: from nothing, to nothing, or from what it was."""

    before: Row | None
    after: Row | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many forward-paths a ledger knows, by what became of them; a mail that could not be read counts as one.

    ``waiting`` was taken from the input and given back unsent; what the input still holds nobody has counted.
    ``domains`` says the same for each domain ("" where there is none); ``replies`` how often each reply or error was
    the last word, with "…" for what is particular to a mail: ``250 2.0.0 Ok: queued as …``. Of replies that still
    differ the first thousand are told apart, and the rest is "…".
    """

    accepted: int = 0
    refused: int = 0
    deferred: int = 0
    in_doubt: int = 0
    waiting: int = 0
    under_way: int = 0
    domains: "Mapping[str, Counts]"
    replies: Mapping[str, int]

    @property
    def total(self) -> int:
        """All of them."""
        return sum(getattr(self, state) for state in STATES)


Tally = Counter[tuple[str, str, State]]  # of ("domain" or "reply", its name, the state)


def tallied(changes: Iterable[Change], kinds: set[str]) -> Tally:
    """What changes in the counts, by how much. ``kinds`` of replies are those known by then; new ones are added.

    A server that says something else each time is not followed for ever: what is too many is one kind.
    """
    tally: Tally = Counter()
    for change in changes:
        for row, number in ((change.before, -1), (change.after, 1)):
            if row is not None:
                tally["domain", row.address.rpartition("@")[2].lower(), row.state] += number
                if row.reply is not None:
                    name = kind(row.reply)
                    if len(kinds) < MOST_KINDS:
                        kinds.add(name)
                    tally["reply", name if name in kinds else OTHERS, row.state] += number
    return tally


def counted(tally: Mapping[tuple[str, str, State], int]) -> Counts:
    """A whole tally as counts."""
    domains: dict[str, Counter[str]] = {}
    replies: Counter[str] = Counter()
    for (what, name, state), number in tally.items():
        if what == "reply":
            replies[name] += number
        elif number:
            domains.setdefault(name, Counter())[state] += number
    states = sum(domains.values(), Counter[str]())
    each = {name: Counts(**states, domains={}, replies={}) for name, states in domains.items()}
    return Counts(**states, domains=each, replies={name: number for name, number in replies.items() if number})


def kind(reply: str) -> str:
    """A reply or an error without what is particular to one mail: addresses, and whatever has a digit in it."""
    found = _KIND.match(reply)
    assert found is not None
    code, words = found.groups("")
    return (code + _PARTICULAR.sub("…", words))[:LONGEST_KIND]


def handed_out(kept: Sequence[Row], mail: Prepared, *, key: int | str, run: int, retry: bool) -> list[Change]:
    """For whom a mail is to be sent, as changes to what the ledger keeps of it; with ``retry`` in doubt too."""
    known = {row.address: row for row in kept}
    changes = []
    for path in mail.envelope.forward_paths:
        before = known.get(path.address)
        if before is None or before.state in AGAIN or (retry and before.state == "in_doubt"):
            changes.append(Change(before, Row(key, path.address, mail.message_id, "under_way", None, run)))
    return changes


def settled(mail: Prepared, changes: Iterable[Change], outcome: Outcome) -> list[Change]:
    """How what was handed out changes by its outcome."""
    refused = outcome.refused
    given_up = any(  # somebody was refused for good without whom it is not to go out
        path.required and path.address in refused and refused[path.address].permanent
        for path in mail.envelope.forward_paths
    )
    return [Change(row, verdict(row, outcome, given_up=given_up)) for _, row in changes if row is not None]


def given_back(changes: Iterable[Change]) -> list[Change]:
    """How what was handed out, and not begun, is again what it was."""
    return [Change(row, before or row._replace(state="waiting")) for before, row in changes if row is not None]


def verdict(row: Row, outcome: Outcome, *, given_up: bool = False) -> Row:
    """The row of what was under way, after its outcome; ``given_up``: nobody is left whom another attempt may serve."""
    address, error = row.address, outcome.error
    refusal = outcome.refused.get(address)
    if address in outcome.accepted:
        reply = outcome.replies.get(address, outcome.reply)
        return row._replace(state="accepted", reply=str(reply) if reply is not None else None)
    if refusal is not None:
        lasting = refusal.permanent or given_up
        return row._replace(state="refused" if lasting else "deferred", reply=str(refusal))
    if address in outcome.in_doubt or isinstance(error, InDoubt) or error is None:
        return row._replace(state="in_doubt", reply=words(error) if error is not None else None)
    lasting = given_up or isinstance(error, InvalidMail) or (isinstance(error, _VERDICTS) and not error.transient)
    return row._replace(state="refused" if lasting else "deferred", reply=words(error))


def words(error: SMTPError) -> str:
    """An error as it is written down: the reply that made it, or what it says of itself."""
    if isinstance(error, _VERDICTS):
        return str(error.reply)
    return f"{type(error).__name__}: {error}".encode("utf-8", "backslashreplace").decode()
