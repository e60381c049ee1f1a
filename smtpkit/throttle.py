"""Octets per second on an absolute schedule: arithmetic only, time is passed in."""

PIECE = 0.0075  # seconds that one write is worth
SLACK = 0.015  # seconds a late caller may catch up; what is later is lost, so that an idle period saves nothing


class Throttle:
    """An absolute schedule: a sleep that was too long is made good by the next one being shorter.

    ``rate`` is in octets per second; ``now`` is in seconds on the clock that ``take`` is given. ``piece`` is how many
    octets to write at a time. Kept to, no second sees more than 1.03 times the rate (below 70 kB/s, where a piece is
    its smallest: the rate and 2 pieces), whatever came before; the mean is exact unless sleeps are late by more than
    15 ms. One Throttle serves mail after mail, and several senders share one by each asking in turn.
    """

    __slots__ = ("_due", "piece", "rate")

    def __init__(self, rate: float, now: float) -> None:
        self.rate = rate
        self.piece = min(max(512, int(rate * PIECE)), 262_144)
        self._due = now

    def take(self, octets: int, now: float) -> float:
        """The moment until which to sleep *before* these octets are written; not after ``now``: at once."""
        when = max(self._due, now - SLACK)
        self._due = when + octets / self.rate
        return when
