"""The policy of trying again: which recipients, and after how long.

Rules: who has accepted is never served again, who has refused for good is never asked again, and what is in doubt is
repeated only where that is wished. It knows no clock and throws no dice: both are told.
"""

from collections.abc import Collection
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, NamedTuple

from smtpkit.errors import InDoubt, Outcome, ProtocolViolation, RecipientsRefused, SMTPError, UsageError

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0  # seconds


class Again(NamedTuple):
    """What is to be tried again: the mail for these recipients, in so many seconds."""

    recipients: tuple[str, ...]
    pause: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """When a mail is tried again that was not accepted, and for whom. Times are in seconds.

    ``attempts`` at most, the first one too; none after ``maximum_age``, the last one when a mail has just that age.
    The pause is ``first``, then ``factor`` times as long each time, at most ``most``; to each up to its ``jitter``
    (0.2: a fifth) is added by chance. Where the first answer looks like greylisting the first pause is ``greylisted``
    if that is shorter. ``in_doubt``: "retry" repeats what may have been accepted already (with its Message-ID, so that
    a recipient may tell), "hold" does not. Raises UsageError.

    The defaults are those of RFC 5321 section 4.5.4.1: soon at first, then every few hours, for five days.
    """

    attempts: int = 50
    first: float = 15 * MINUTE
    factor: float = 2.0
    most: float = 3 * HOUR
    jitter: float = 0.2
    greylisted: float = 5 * MINUTE + 10
    maximum_age: float = 5 * DAY
    in_doubt: Literal["hold", "retry"] = "retry"

    def __post_init__(self) -> None:
        for name, (kind, least) in _LEAST.items():
            value: object = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kind) or not isfinite(value) or value < least:
                what = "a whole number" if kind is int else "a number"
                raise UsageError(f"{name} {value!r}: {what}, at least {least}")
        if self.jitter > 1:
            raise UsageError(f"jitter {self.jitter!r}: a share of the pause, 0 to 1")
        if self.in_doubt not in {"hold", "retry"}:
            raise UsageError(f"in_doubt {self.in_doubt!r}: retry or hold")

    def again(
        self,
        what: Outcome | SMTPError,
        recipients: Collection[str],
        *,
        attempts: int,
        age: float,
        chance: float,
        required: Collection[str] = (),
    ) -> Again | None:
        """Who of ``recipients`` is to be tried again and in how long, after what became of the mail; None for nobody.

        ``attempts`` were made, this one too; the mail is ``age`` seconds old. ``chance`` is a random number, from 0
        up to 1. ``recipients`` are those of the attempt, as they stood on the wire; ``required`` as for ``left``.
        """
        left = self.left(what, recipients, required=required)
        if not left or self.used_up(attempts, age):
            return None
        refused = _outcome(what).refused
        hints = [refused[path].hint for path in left if path in refused]
        pause = self.pause(attempts, chance, greylisted="greylisted" in hints)
        return Again(left, min(pause, self.maximum_age - age))

    def left(
        self, what: Outcome | SMTPError, recipients: Collection[str], *, required: Collection[str] = ()
    ) -> tuple[str, ...]:
        """Who of ``recipients`` may be served by another attempt, whenever that is.

        ``required``: without whom the mail is not to go out; where one of them is refused for good, nobody is left.
        """
        outcome = _outcome(what)
        refused, error = outcome.refused, outcome.error
        if any(path in refused and not refused[path].transient for path in required):
            return ()
        doubt = self.in_doubt == "retry"
        others = doubt if isinstance(error, InDoubt) else self.mends(error)
        return tuple(
            path
            for path in recipients
            if path not in outcome.accepted
            and (refused[path].transient if path in refused else doubt if path in outcome.in_doubt else others)
        )

    def mends(self, error: SMTPError | None) -> bool:
        """May time mend it? What is transient, and a server out of step: that is no word about the mail."""
        return error is not None and (error.transient or isinstance(error, ProtocolViolation))

    def used_up(self, attempts: int, age: float) -> bool:
        """Is there no further attempt for a mail that was tried so often, or is so many seconds old?"""
        return attempts >= self.attempts or age >= self.maximum_age

    def pause(self, attempts: int, chance: float, *, greylisted: bool = False) -> float:
        """Seconds from one attempt to the next, where so many were made; ``chance`` is a random number from 0 to 1."""
        try:
            pause = min(self.first * self.factor ** (attempts - 1), self.most)
        except OverflowError:
            pause = self.most
        if greylisted and attempts == 1:
            pause = min(pause, self.greylisted)
        return pause * (1 + self.jitter * chance)


_NUMBER = (int, float)
_LEAST: dict[str, tuple[Any, int]] = {
    "attempts": (int, 1),
    "first": (_NUMBER, 0),
    "factor": (_NUMBER, 1),
    "most": (_NUMBER, 0),
    "jitter": (_NUMBER, 0),
    "greylisted": (_NUMBER, 0),
    "maximum_age": (_NUMBER, 0),
}


def _outcome(what: Outcome | SMTPError) -> Outcome:
    if isinstance(what, Outcome):
        return what
    return what.outcome or Outcome(refused=what.refused if isinstance(what, RecipientsRefused) else {}, error=what)
