"""Octets per second on an absolute schedule: arithmetic only, time is passed in."""

from math import inf

PIECE = 0.0075  # seconds that one write is worth
SLACK = 0.015  # seconds a late caller may catch up; what is later is lost
IDLE = 0.03  # seconds from which on a caller was not late but idle, and has nothing to catch up


class Throttle:
    """An absolute schedule: a sleep that was too long is made good by the next one being shorter.

    ``rate`` is in octets per second. The schedule begins with the first ``take``, and anew with each that comes after
    an idle period. ``piece`` is how many octets to write at a time, at any rate some 130 pieces a second. Kept to, no
    second sees more than 1.03 times the rate, whatever came before; the mean is exact unless sleeps are late by more
    than 15 ms. One Throttle serves mail after mail, and several senders share one by each asking in turn.
    """

    __slots__ = ("_due", "piece", "rate")

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.piece = min(max(1, int(rate * PIECE)), 262_144)
        self._due = -inf

    def take(self, octets: int, now: float) -> float:
        """The moment until which to sleep *before* these octets are written; not after ``now``: at once.

        ``now`` is in seconds on any one clock that does not go back.
        """
        when = max(self._due, now if now - self._due > IDLE else now - SLACK)
        self._due = when + octets / self.rate
        return when
