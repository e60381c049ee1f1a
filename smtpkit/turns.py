"""Who waits until a mail may begin, and who is next.

It decides synchronously and reads no clock: one method grants what can be granted and rings for it. Mails to the same
domains go in order. A mail waits for nobody who waits for another domain, and none waits for ever: what the oldest
needs of several domains is kept for it, as soon as another mail would make it wait longer.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from heapq import heappop, heappush
from math import inf
from typing import TYPE_CHECKING

from smtpkit.errors import Outcome, SMTPError, TimedOut
from smtpkit.pace import Pace, domain_of
from smtpkit.protocol.envelope import Envelope
from smtpkit.session import Session

if TYPE_CHECKING:
    from smtpkit.message.message import Prepared
    from smtpkit.pool import Bell

LeaseMaker = Callable[[], AbstractAsyncContextManager[Session]]
LATE = 0.001  # seconds by which an alarm may be later than need be


class Turn:
    """One mail's wish to begin. ``granted``: it may; ``bell`` rings then, or when this turn is to keep the time."""

    __slots__ = ("bell", "domains", "granted", "number", "when")

    def __init__(self, domains: frozenset[str]) -> None:
        self.domains = domains
        self.granted = False
        self.bell: Bell | None = None
        self.number = 0  # in the order of coming
        self.when = inf  # to ask for it again; inf: when another mail was settled


class Turns:
    """The turns of a client, or of a run: at most ``most`` mails are under way at once, and they keep the pace.

    Only the next turn to be granted keeps the time, by ``pause``; the others sleep until their bell rings. Those of
    ``before``, which keep the same pace, are granted first: whoever sends one mail waits for no run of many.
    """

    def __init__(self, pace: Pace, most: float, before: "Turns | None" = None) -> None:
        self._before = before
        self._pace = pace
        self._most = most
        self._under_way = 0
        self._came = 0
        self._lines: dict[frozenset[str], OrderedDict[Turn, None]] = {}
        self._firsts: list[tuple[float, int, Turn]] = []  # a heap of those first in their lines; some are outdated
        self._stuck: dict[str, set[Turn]] = {}  # firsts that wait until a mail to this domain is settled
        self._kept: dict[str, Turn] = {}  # for whom this domain is kept
        self._watch: Turn | None = None  # who keeps the time, until when
        self._alarm = inf
        pace.freed.append(self._freed)

    @property
    def next(self) -> float:
        """When the next turn may be granted; inf: when another mail is settled."""
        return self._alarm

    def has_room(self, most: int, now: float) -> bool:
        """Is it of use that one more stands in line: it may begin at once, or fewer than ``most`` wait for others?"""
        waiting = sum(map(len, self._lines.values()))
        return not waiting or (waiting < most and not self._pace.wait((), now))

    def close(self) -> None:
        """Be told no more of turns that are given back."""
        self._pace.freed.remove(self._freed)

    def enter(self, turn: Turn, now: float) -> None:
        """Stand in line; it may be granted at once."""
        self._came += 1
        turn.number = self._came
        line = self._lines.setdefault(turn.domains, OrderedDict())
        line[turn] = None
        if len(line) == 1:
            self._ask_at(turn, now)
        self.grant(now)

    def leave(self, turn: Turn, outcome: Outcome | None, now: float) -> None:
        """Give a turn back, granted or not; ``outcome`` None: nothing became of the mail."""
        if turn.granted:
            self._under_way -= 1
            self._pace.settled(turn.domains, outcome, now)  # which calls _freed
        else:
            self._step_out(turn, now)
            self.grant(now)

    def begins(self, turn: Turn, now: float) -> bool:
        """May the mail of a turn that was granted really begin now? If not it is given back, and first in line."""
        if self._pace.begins(turn.domains, now):
            return True
        turn.granted = False
        line = self._lines.setdefault(turn.domains, OrderedDict())
        line[turn] = None
        line.move_to_end(turn, last=False)
        self._ask_at(turn, now)
        self._under_way -= 1
        self._pace.settled(turn.domains, None, now)
        return False

    def grant(self, now: float) -> None:
        """Grant what can be granted, and see to it that somebody keeps the time until more can be."""
        if self._before is not None:
            self._before.grant(now)
        while (first := self._first()) and self._under_way < self._most:
            if first.when > now or self._pace.wait((), now):
                break
            heappop(self._firsts)
            first.when = inf
            if other := self._is_kept_from(first, now):
                self._ask_at(first, other.when)
            elif pause := self._pace.ask(first.domains, now):
                self._ask_at(first, now + pause)
            else:
                first.granted = True
                self._under_way += 1
                self._step_out(first, now)
                _ring(first)
        self._set_alarm(now)

    def pause(self, turn: Turn, now: float) -> float:
        """For how many seconds a turn may wait for its bell before ``grant`` is to be called; inf: just wait."""
        return max(self._alarm - now, 0.0) if turn is self._watch else inf

    def ring_all(self) -> None:
        """Wake whoever waits."""
        for line in self._lines.values():
            for turn in line:
                _ring(turn)

    def _first(self) -> Turn | None:
        """The one to ask for first."""
        firsts = self._firsts
        while firsts and firsts[0][2].when != firsts[0][0]:
            heappop(firsts)
        return firsts[0][2] if firsts else None

    def _ask_at(self, turn: Turn, when: float) -> None:
        turn.when = when
        if when < inf:
            heappush(self._firsts, (when, turn.number, turn))
            return
        for domain in turn.domains:
            self._stuck.setdefault(domain, set()).add(turn)

    def _is_kept_from(self, turn: Turn, now: float) -> Turn | None:
        """The older turn for which a domain is kept that this one needs. Keeps the domains of the oldest for it."""
        oldest = True
        for domain in turn.domains:
            keeper, line = self._kept.get(domain), self._lines.get(frozenset((domain,)))
            if keeper is not None and keeper.number < turn.number:
                oldest = False
                if keeper.when < inf and now + self._pace.keeps(domain, now) > keeper.when:
                    return keeper
            oldest = oldest and (line is None or next(iter(line)).number >= turn.number)
        if oldest and len(turn.domains) > 1:
            self._kept |= dict.fromkeys(turn.domains, turn)
        return None

    def _step_out(self, turn: Turn, now: float) -> None:
        """Leave the line; ask for those who may be next."""
        turn.when = inf
        next_ones = {turn.domains}
        for domain in turn.domains:
            if stuck := self._stuck.get(domain):
                stuck.discard(turn)
                if not stuck:
                    del self._stuck[domain]
            if self._kept.get(domain) is turn:
                del self._kept[domain]
                next_ones.add(frozenset((domain,)))
        del self._lines[turn.domains][turn]
        for domains in next_ones:
            if line := self._lines.get(domains):
                self._ask_at(next(iter(line)), now)
        if not self._lines[turn.domains]:
            del self._lines[turn.domains]

    def _freed(self, domains: Collection[str], now: float) -> None:
        """A mail to these domains is settled, whoever sent it: ask for those who waited for that."""
        for domain in domains:
            for turn in self._stuck.pop(domain, ()):
                self._ask_at(turn, now)
        self.grant(now)

    def _set_alarm(self, now: float) -> None:
        watch, alarm = self._first(), inf
        if self._under_way >= self._most:
            watch = None
        if watch is not None:
            alarm = max(watch.when, now + self._pace.wait((), now))
            if watch is not self._watch or alarm < self._alarm - LATE:
                _ring(watch)
        self._watch, self._alarm = watch, alarm


async def in_turn(
    turns: Turns,
    preparing: "Awaitable[Prepared]",
    lease: LeaseMaker,
    send: "Callable[[Awaitable[Prepared], LeaseMaker], Awaitable[Outcome]]",
    *,
    wait: Callable[[Turn, float], Awaitable[None]],
    now: Callable[[], float],
    until: float | None,
) -> Outcome:
    """Send a mail when its turn has come, which is given back whatever happens.

    ``send`` awaits the mail that it is given before it takes a session by the lease that it is given. ``wait`` gives a
    turn a bell and returns when that has rung, or after so many seconds; what it raises is raised. ``until`` is the
    total limit, on ``now()``'s clock.
    """
    turn: Turn | None = None
    outcome: Outcome | None = None

    async def granted(turn: Turn) -> None:
        while not turn.granted:
            left = inf if until is None else until - now()
            if left <= 0:
                where = ", ".join(sorted(turn.domains))
                raise TimedOut(f"the mail to {where} waited for its turn; the total limit ran out", limit="total")
            await wait(turn, min(left, turns.pause(turn, now())))
            turns.grant(now())

    async def prepared() -> "Prepared":
        nonlocal turn
        mail = await preparing
        turn = Turn(domains_of(mail.envelope))
        turns.enter(turn, now())
        await granted(turn)  # before a session is taken
        return mail

    @asynccontextmanager
    async def in_time() -> AsyncGenerator[Session]:
        """A session; where one had to be opened, and that took long, it is open for the mail's next turn."""
        assert turn is not None
        while True:
            await granted(turn)
            async with lease() as session:
                if turns.begins(turn, now()):
                    yield session
                    return

    try:
        outcome = await send(prepared(), in_time)
    except SMTPError as error:
        outcome = error.outcome
        raise
    finally:
        if turn is not None:
            turns.leave(turn, outcome, now())
    return outcome


def domains_of(envelope: Envelope) -> frozenset[str]:
    """The domains of the forward-paths, in lower case."""
    return frozenset([domain_of(path.address) for path in envelope.forward_paths])


def _ring(turn: Turn) -> None:
    if turn.bell is not None:
        turn.bell.set()
