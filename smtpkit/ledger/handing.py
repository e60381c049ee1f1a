"""Which mails of the input are handed out, for whom and as what, by what the ledger keeps of them."""

import sys
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from smtpkit.bulk import Mail, mail_of, prepared
from smtpkit.errors import InDoubt, Outcome, SMTPError, UsageError
from smtpkit.ledger.rows import AGAIN, Change, Row, handed_out, words
from smtpkit.ledger.store import Store
from smtpkit.message.message import Message, Prepared
from smtpkit.options import Options
from smtpkit.transport.connect import run_in_worker


@dataclass(slots=True)
class Entry(Prepared):
    """A mail that is handed out: ``item`` is what the caller gave, ``changes`` is how that is written down."""

    changes: list[Change]


class Plan(NamedTuple):
    """What is done about a mail: it is handed out, or its outcome is told at once, or neither; and what changes."""

    entry: Entry | None
    told: Outcome | None
    changes: list[Change]


class Handing:
    """The plans of one run. ``key`` makes the key of an item, which is its position otherwise."""

    def __init__(self, options: Options, *, key: Callable[[Any], str] | None, retry: bool) -> None:
        self._options = options
        self._key = key
        self._retry = retry
        self._number = 0  # of this run in its ledger
        self._known = -1  # the last position that the ledger knows

    def begin(self, store: Store) -> None:
        """Begin a run. Raises UsageError where the ledger knows its mails otherwise: each would be sent once more."""
        self._number = store.next_run()
        last = store.last_key()
        if last is not None and isinstance(last, str) != (self._key is not None):
            was = "a key" if isinstance(last, str) else "their position"
            raise UsageError(f"key: this ledger knows its mails by {was}; give the input as it was given then")
        if isinstance(last, int):
            self._known = last

    def may_know(self, key: int | str) -> bool:
        """May the ledger know this mail?"""
        return isinstance(key, str) or key <= self._known

    def named(self, items: Sequence[tuple[int, Any]]) -> tuple[dict[int | str, Any], Exception | None]:
        """The items by their keys, as far as these are good; and what is wrong with the next one, if anything."""
        keyed: dict[int | str, Any] = {}
        for position, item in items:
            try:
                name = self._name(position, item)
            except Exception as fault:  # noqa: BLE001  it may be the caller's
                return keyed, fault
            if name in keyed:
                return keyed, _twice(name)
            keyed[name] = item
        return keyed, None

    async def plan(self, key: int | str, item: Any, kept: Sequence[Row]) -> Plan:
        """What is done about a mail of which the ledger keeps these rows. Raises UsageError where they do not fit."""
        if any(row.run == self._number for row in kept):
            raise _twice(key)
        known = [row for row in kept if row.address]
        doubtful = [row for row in known if row.state == "in_doubt"]
        identity = next((row.message_id for row in (*doubtful, *known) if row.message_id is not None), None)
        try:
            mail = await prepared(_named(mail_of(item), identity), options=self._options, run=run_in_worker)
        except SMTPError as error:
            return self._unreadable(key, item, kept, error)
        paths = mail.envelope.forward_paths
        if known and {row.address for row in known} != {path.address for path in paths}:
            raise UsageError(
                f"messages: mail {key!r} is for other recipients than this ledger says, so that the input is not the "
                "same any more; give the same, or key=, or begin another ledger"
            )
        changes = handed_out(known, mail, key=key, run=self._number, retry=self._retry)
        if not changes:
            return Plan(None, _held(item, doubtful), [])
        if self._retry and any(row.message_id != mail.message_id for row in doubtful):
            raise UsageError(
                f"messages: mail {key!r} is in doubt and had the Message-ID {identity}, and has {mail.message_id} now: "
                'octets are sent as they are; give them the same one, or in_doubt="hold"'
            )
        envelope = mail.envelope
        if len(changes) < len(paths):
            due = {change.after.address for change in changes if change.after is not None}
            envelope = replace(envelope, forward_paths=tuple(path for path in paths if path.address in due))
        mended = [Change(row, None) for row in kept if not row.address]  # it could not be read by an earlier run
        return Plan(Entry(envelope, mail.mail_data, mail.message_id, item, changes), None, mended + changes)

    def _unreadable(self, key: int | str, item: Any, kept: Sequence[Row], error: SMTPError) -> Plan:
        """A mail that cannot be made ready is refused, for whom nothing else is known."""
        left = [row for row in kept if row.state in AGAIN]
        if kept and not left:
            return Plan(None, _held(item, [row for row in kept if row.state == "in_doubt"]), [])
        said = words(error)
        changes = [Change(row, row._replace(state="refused", reply=said, run=self._number)) for row in left]
        if not kept:
            changes.append(Change(None, Row(key, "", None, "refused", said, self._number)))
        error.outcome = Outcome(item=item, error=error)
        return Plan(None, error.outcome, changes)

    def _name(self, position: int, item: Any) -> int | str:
        """The key of a mail."""
        if self._key is None:
            return position
        name: object = self._key(item)
        if not (isinstance(name, str) and name and name.isprintable()):
            raise UsageError(f"key: a str of printable characters for each mail, not {name!r}")
        return name


def _named(mail: Mail, identity: str | None) -> Mail:
    """A mail with the Message-ID that it had in an earlier run, where that is ours to give."""
    message = mail.message
    stdlib = sys.modules.get("email.message")  # not imported, so not the caller's either
    if identity is None:
        return mail
    if isinstance(message, Message) and message.message_id != identity:
        others = {name: text for name, text in message.headers.items() if name.lower() != "message-id"}
        return mail._replace(message=replace(message, headers=others | {"Message-ID": identity}))
    if stdlib is not None and isinstance(message, stdlib.Message) and message["Message-ID"] != identity:
        twin = copy(message)
        del twin["Message-ID"]  # which gives it a list of fields of its own
        twin["Message-ID"] = identity
        return mail._replace(message=twin)
    return mail


def _twice(key: int | str) -> UsageError:
    return UsageError(f"key: {key!r} is that of two mails of this input; make one of its own for each")


def _held(item: Any, doubtful: Sequence[Row]) -> Outcome | None:
    """The outcome of a mail that an earlier run has left in doubt, if it has."""
    if not doubtful:
        return None
    error = InDoubt("an earlier run handed it out, and ended before it knew its outcome; it is not sent again")
    paths = tuple(row.address for row in doubtful)
    error.outcome = Outcome(in_doubt=paths, message_id=doubtful[0].message_id, item=item, error=error)
    return error.outcome
