"""How many mails per second begin, of a client and for each recipient domain: arithmetic only, time is passed in.

Rules: a schedule is absolute, so that a mail that was late makes its successor come sooner by as much, up to a little;
never do more than rate + 1 mails begin in any second (from 500 a second on, where no timer is that exact, a hundredth
more). Whoever refuses for now is served more slowly for a while.
"""

from collections.abc import Callable, Collection
from math import floor, inf
from typing import Self

from smtpkit.errors import Outcome, RecipientsRefused, Refused
from smtpkit.options import Options

SLACK = 0.05  # seconds a late mail's successor may catch up; what is later is lost
FAST = 500.0  # mails per second from which on a hundredth more may begin in a second
NEAR = 0.01  # seconds by which no machine is exact: a mail that is sooner by less is not set back, whatever the rate
HOLD = 5.0  # seconds for which refusals are one and the same event
RECOVERY = 600.0  # seconds from standing still to the full pace; from a half to the full one half of them
LEAST = 1 / 64  # the share of its pace that a domain keeps whatever it refuses
STRETCH = 60.0  # seconds over which is counted at what pace a domain is served
FEW = 1024  # domains that may be remembered although they are silent


class _Domain:
    """What is known of a domain: its place in its schedule, what is under way, how it was slowed down."""

    __slots__ = ("begun", "count", "full", "last", "share", "since", "slowed", "under_way")

    def __init__(self, now: float) -> None:
        self.last = -inf  # where the latest turn stands in the schedule
        self.begun = -inf  # where the latest mail does that has really begun
        self.under_way = 0
        self.full = inf  # mails per second that are its pace
        self.share = 1.0  # of its pace that was left to it when it was slowed down
        self.slowed = -inf  # when that was
        self.since = now  # when the stretch began that is counted
        self.count = 0  # turns in it


class Pace:
    """When a mail may begin. ``mail_rate`` is in mails per second for all, ``domain_rate`` for each recipient domain.

    ``domain_connections``: how many mails to one domain may be under way at once. None is no limit; where there is
    none at all a Pace is false, and needs not be asked.

    A refusal whose reply hints that one should slow down (``Reply.hint``) halves the pace of its domain, once in
    ``HOLD`` seconds however many there are, and never below ``LEAST`` of it. Then it grows evenly, by the whole in
    ``RECOVERY`` seconds: after one refusal it is the full pace again in five minutes. A domain without ``domain_rate``
    has the pace at which its mails went out of late, as long as it is slowed down: nothing else is known of what it
    bears. A domain that is neither slowed down nor busy nor due later is forgotten.
    """

    def __init__(self, *, mail_rate: float | None, domain_rate: float | None, domain_connections: int | None) -> None:
        self.freed: list[Callable[[Collection[str], float], object]] = []  # told whose turn was given back, and when
        self._mail_rate = mail_rate or inf
        self._domain_rate = domain_rate or inf
        self._most = domain_connections or inf
        self._limited = min(self._mail_rate, self._domain_rate, self._most) < inf
        self._last = self._begun = -inf  # as for each domain
        self._domains: dict[str, _Domain] = {}
        self._crowd = FEW  # domains at which it is looked whom to forget

    @classmethod
    def of(cls, options: Options) -> Self:
        """The pace that the options ask for."""
        return cls(
            mail_rate=options.mail_rate,
            domain_rate=options.domain_rate,
            domain_connections=options.domain_connections,
        )

    def __bool__(self) -> bool:
        return self._limited

    def ask(self, domains: Collection[str], now: float) -> float:
        """0.0: a mail to these domains may begin now, and holds its turn until ``settled``.

        Else seconds after which to ask again; inf: when another mail to one of them was settled. ``now`` is in seconds
        on any one clock that does not go back. It takes the turn of all the domains or of none.
        """
        if not self._limited:
            return 0.0
        pause = self.wait(domains, now)
        if not pause:
            self._take(domains, now)
        return pause if pause == inf else min(pause, HOLD)  # by then who is slowed down may have a better pace

    def wait(self, domains: Collection[str], now: float) -> float:
        """What ``ask`` would say; no turn is taken. Of no domain: how long no mail at all may begin."""
        due = self._last + 1 / self._mail_rate
        for domain in domains:
            state = self._domains.get(domain)
            if state is not None:
                if state.under_way >= self._most:
                    return inf
                due = max(due, state.last + 1 / self._rate(state, now))
        return max(due - now, 0.0)

    def keeps(self, domain: str, now: float) -> float:
        """For how many seconds a mail that began now would keep the next of this domain waiting; inf: not known."""
        state = self._domains.get(domain)
        if (state.under_way if state is not None else 0) + 1 >= self._most:
            return inf
        return 1 / (self._rate(state, now) if state is not None else self._domain_rate)

    def begins(self, domains: Collection[str], now: float) -> bool:
        """May a mail that has its turn really begin now? Not where that is late, so that too many might be at once.

        What comes between a turn and its mail, such as opening a session, takes now longer and now shorter. True: the
        mail is counted.
        """
        schedules = [(self._begun, self._mail_rate)]
        states = [self._domains[domain] for domain in domains]
        schedules += [(state.begun, self._rate(state, now)) for state in states]
        if any(now < begun + 1 / rate - max(_leeway(rate), NEAR) for begun, rate in schedules):
            return False
        self._begun = _place(self._begun, self._mail_rate, now)
        for state in states:
            state.begun = _place(state.begun, self._rate(state, now), now)
        return True

    def settled(self, domains: Collection[str], outcome: Outcome | None, now: float) -> None:
        """Give the turn of a mail back, and learn from what became of it; None: nothing did.

        A turn that was not used has had its place in the schedule all the same.
        """
        if not self._limited:
            return
        slow = _hinting(domains, outcome) if outcome is not None and (outcome.refused or outcome.error) else ()
        for domain in domains:
            state = self._domains[domain]
            state.under_way -= 1
            if domain in slow:
                self._slow_down(state, now)
        for tell in self.freed:
            tell(domains, now)

    def _take(self, domains: Collection[str], now: float) -> None:
        self._last = _place(self._last, self._mail_rate, now)
        for domain in domains:
            state = self._domains.get(domain)
            if state is None:
                if len(self._domains) >= self._crowd:
                    self._forget(now)
                state = self._domains[domain] = _Domain(now)
            if now - state.since > STRETCH:
                state.since, state.count = now, 0
            state.count += 1
            state.under_way += 1
            state.last = _place(state.last, self._rate(state, now), now)

    def _rate(self, state: _Domain, now: float) -> float:
        """The pace of a domain at present."""
        share = _share(state, now)
        return state.full * share if share < 1 else self._domain_rate

    def _slow_down(self, state: _Domain, now: float) -> None:
        if now - state.slowed < HOLD:
            return
        share = _share(state, now)
        if share == 1:
            of_late = state.count / max(now - state.since, 1.0)
            state.full = self._domain_rate if self._domain_rate < inf else of_late
        state.share, state.slowed = max(share / 2, LEAST), now

    def _forget(self, now: float) -> None:
        """Forget the domains of which nothing need be known."""
        silent = now - SLACK
        self._domains = {
            domain: state
            for domain, state in self._domains.items()
            if state.under_way
            or _share(state, now) < 1
            or max(state.last, state.begun) + 1 / self._domain_rate > silent
        }
        self._crowd = max(FEW, 2 * len(self._domains))


def domain_of(path: str) -> str:
    """The domain of a path, in lower case."""
    return path.rpartition("@")[2].lower()


def _share(state: _Domain, now: float) -> float:
    """The share of its pace that a domain has at present."""
    return min(state.share + (now - state.slowed) / RECOVERY, 1.0)


def _place(last: float, rate: float, now: float) -> float:
    """Where in a schedule a mail stands that begins now: a little back where it is late, so that the next is not.

    Who is later than twice that was idle, and has nothing to catch up.
    """
    due, back = last + 1 / rate, min(SLACK, _leeway(rate))
    return now if now - due > 2 * back else max(due, now - back)


def _leeway(rate: float) -> float:
    """How late a mail may be, and how soon, in seconds.

    Where mails are late or soon by up to so much a second has at most ``rate * (1 + late + soon)`` of them and one
    more, which must not be more than ``rate + 1``. A third of what that leaves is for what happens on their way.
    """
    if rate >= FAST:
        return NEAR / 2 if rate < inf else inf
    return (floor(rate) + 1 - rate) / rate / 3


def _hinting(domains: Collection[str], outcome: Outcome) -> Collection[str]:
    """The domains that asked to be served more slowly: all, where the whole mail was refused."""
    error = outcome.error
    if isinstance(error, Refused) and not isinstance(error, RecipientsRefused) and error.reply.hint:
        return domains
    return {domain_of(path) for path, reply in outcome.refused.items() if reply.hint}
