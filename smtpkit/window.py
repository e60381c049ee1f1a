"""How many transactions may overlap, and what a host has shown it cannot do: arithmetic only.

Rules: nothing overlaps until the server has shown that it hears what follows mail data at once; then the window opens
as TCP's does, one more for each mail that is settled, so that it doubles with each round trip. Where a session dies and
leaves mails in doubt, half as many are put at that risk, and slowly more again.
"""

from dataclasses import dataclass

MOST = 512  # mails that may be unheard at once: their replies have to fit between us
OCTETS = 1_048_576  # of mail data that may be unheard at once
PATIENCE = 10.0  # seconds at least for the reply to a probe
RECOVERY = 1 / 16  # how many more mails may be unheard for each that is settled, after a death that left doubts
MOST_LOSSES = 2  # sessions lost behind an overlap, before a host is believed to have no overlap in it


@dataclass(slots=True)
class Habits:
    """What a host has shown: does it bear an overlap, does it know BDAT? None: not known yet.

    ``most``: how many mails are put at risk at once, at least two.
    """

    overlap: bool | None = None
    chunking: bool | None = None
    losses: int = 0
    most: float = MOST

    def silent(self, *, heard: bool) -> None:
        """A probe was not answered in time; ``heard``: its RSET was, so that BDAT is what the host hangs at."""
        if heard:
            self.overlap, self.chunking = True, False
        else:
            self.overlap = False

    def lost(self) -> None:
        """A session ended behind the first of several mails."""
        self.losses += 1
        if self.losses >= MOST_LOSSES:
            self.overlap = False

    def doubtful(self, mails: int) -> None:
        """A session ended, and it is not known what became of several of the mails that were unheard."""
        self.most = max(2.0, mails / 2)


class Window:
    """The overlap of one session. ``size`` is how many mails may be unheard at once, 1 for no overlap."""

    __slots__ = ("_habits", "_most", "size", "slowest")

    def __init__(self, most: int, habits: Habits, *, pipelining: bool) -> None:
        self._most = most if pipelining else 1
        self._habits = habits
        self.slowest = 0.0  # the longest that a mail took to be settled, in seconds
        self.size = 2 if habits.overlap and self._most > 1 else 1

    @property
    def untried(self) -> bool:
        """Is a probe due, since more could be had?"""
        return self._most > 1 and self._habits.overlap is None

    @property
    def patience(self) -> float:
        """Seconds to wait for the reply to a probe."""
        return max(PATIENCE, 4 * self.slowest)

    def has_room(self, mails: int, octets: int) -> bool:
        """May one more mail begin while so many mails, of so many octets, are unheard?"""
        return mails == 0 or (mails < self.size and octets < OCTETS)

    def proven(self) -> None:
        """The probe was answered."""
        self._habits.overlap = True
        self.size = min(2, self._most)

    def settled(self, took: float) -> None:
        """A mail was settled, after so many seconds."""
        self.slowest = max(self.slowest, took)
        self._habits.most = min(self._habits.most + RECOVERY, MOST)
        if self.size > 1:
            self.size = min(self._most, self.size + 1, int(self._habits.most))
