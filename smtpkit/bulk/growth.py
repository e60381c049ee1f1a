"""How many sessions pay: arithmetic only, time is passed in."""

LEAST = 0.1  # seconds to measure at least
WORTH = 1.1  # times as many mails a second, or more sessions are not worth it
STEADY = 100  # measurements that a size stays which did not pay to go beyond


class Growth:
    """How many sessions there should be, 1 to ``most``: twice as many as long as that brings more mails a second.

    It is measured while all of them are open and the input is ahead of them; else nothing is known of them.
    """

    __slots__ = ("_ahead", "_before", "_mails", "_most", "_since", "_steady", "size")

    def __init__(self, most: int) -> None:
        self.size = 1
        self._most = most
        self._before = 0.0  # mails a second with half as many, if that is what ``size`` is to be compared with
        self._mails = self._ahead = 0
        self._since: float | None = None
        self._steady = 0  # measurements for which the size stays

    def settled(self, now: float, *, sessions: int, ahead: bool) -> None:
        """A mail was settled, when so many sessions were open; ``ahead``: another one was waiting already."""
        if sessions < self.size or (self.size == self._most and not self._before):
            self._since = None
            return
        if self._since is None:
            self._since, self._mails, self._ahead = now, 0, 0
            return
        self._mails += 1
        self._ahead += ahead
        took = now - self._since
        if took < LEAST or self._mails < 2 * self.size:
            return
        self._since = None
        if 2 * self._ahead >= self._mails:
            self._judge(self._mails / took)

    def _judge(self, rate: float) -> None:
        if self._steady:
            self._steady -= 1
        elif rate < WORTH * self._before:
            self.size, self._before, self._steady = self.size // 2, 0.0, STEADY
        elif self.size < self._most:
            self.size, self._before = min(2 * self.size, self._most), rate
        else:
            self._before = 0.0

    def refused(self) -> None:
        """One more session was not to be had."""
        self.size, self._before, self._steady, self._since = max(1, self.size - 1), 0.0, STEADY, None
