"""Turns: order, fairness between domains, who keeps the time; waiters without tasks, by a clock that jumps."""

from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
from itertools import pairwise
from math import inf
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpkit.errors import Outcome
from smtpkit.pace import Pace
from smtpkit.protocol.reply import Reply
from smtpkit.turns import Turn, Turns
from tests.test_pace import most_in_a_second

A, B, C = "a.example", "b.example", "c.example"
SLOWED = Outcome(refused={"x@b.example": Reply(451, ("4.3.2 not so fast",))})


class Waiter:
    """A mail that waits for its turn as ``in_turn`` has it: woken by its bell, or when its pause is over."""

    def __init__(self, world: "World", domains: str | tuple[str, ...], takes: float) -> None:
        self.turn = Turn(frozenset([domains] if isinstance(domains, str) else domains))
        self.takes = takes  # seconds that the mail is under way
        self.came = world.now
        self.begun = inf
        self._world = world
        world.turns.enter(self.turn, world.now)
        self.go_on()

    def go_on(self) -> None:
        world, turn = self._world, self.turn
        if turn.granted:
            if lag := world.lag():
                world.at(world.now + lag, self.begin)
            else:
                self.begin()
            return
        turn.bell = bell = Bell(self)
        pause = world.turns.pause(turn, world.now)
        if pause < inf:
            world.at(world.now + pause + world.late(), bell.set)

    def begin(self) -> None:
        world = self._world
        if not world.turns.begins(self.turn, world.now):
            self.go_on()
            return
        self.begun = world.now
        world.begun.append(self)
        world.count()
        world.at(world.now + self.takes, self.end)

    def end(self) -> None:
        self.takes = -1  # over
        self._world.turns.leave(self.turn, self._world.outcome, self._world.now)

    def wake(self) -> None:
        self._world.woken += 1
        self._world.turns.grant(self._world.now)
        self.go_on()


class Bell:
    """Wakes a waiter once."""

    def __init__(self, waiter: Waiter) -> None:
        self._waiter: Waiter | None = waiter

    def set(self) -> None:
        if self._waiter is not None:
            world = self._waiter._world
            world.at(world.now, self._waiter.wake)
            self._waiter = None


class World:
    """What happens, in order of time. ``begun`` are the mails that have begun, ``woken`` says how often one was.

    ``late`` are the seconds that an alarm is late, ``lag`` those from a turn to its mail.
    """

    def __init__(
        self,
        most: int = 10**6,
        *,
        mail: float | None = None,
        domain: float | None = None,
        connections: int | None = None,
        late: Callable[[], float] = lambda: 0.0,
        lag: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.pace = Pace(mail_rate=mail, domain_rate=domain, domain_connections=connections)
        self.turns = Turns(self.pace, most)
        self.late, self.lag = late, lag
        self.now = 0.0
        self.begun: list[Waiter] = []
        self.woken = 0
        self.most = self.most_to_one = 0
        self.outcome = Outcome(accepted=("x@a.example",))
        self._coming: list[tuple[float, int, Callable[[], object]]] = []
        self._number = 0

    def at(self, when: float, what: Callable[[], object]) -> None:
        self._number += 1
        heappush(self._coming, (when, self._number, what))

    def come(self, domains: str | tuple[str, ...], takes: float = 0.0) -> Waiter:
        return Waiter(self, domains, takes)

    def count(self) -> None:
        """Note how many mails are under way, and to one domain, if that is more than ever."""
        under_way = [waiter.turn.domains for waiter in self.begun if waiter.takes >= 0]
        to_domain = Counter(domain for domains in under_way for domain in domains)
        self.most, self.most_to_one = max(self.most, len(under_way)), max(self.most_to_one, *to_domain.values())

    def run(self, until: float = 10**9) -> None:
        while self._coming and self._coming[0][0] <= until:
            self.now, _, what = heappop(self._coming)
            what()

    def times(self) -> dict[str, list[float]]:
        found = defaultdict(list)
        for waiter in self.begun:
            for domain in waiter.turn.domains:
                found[domain].append(waiter.begun)
        return found


def is_forgotten(turns: Turns) -> bool:
    """Is nothing kept of those who are gone?"""
    return not (turns._lines or turns._stuck or turns._kept or turns._first())


def test_in_order_and_by_one_alarm() -> None:
    """Ten thousand mails to a domain begin in the order in which they came; hardly two wake for each that begins."""
    world = World(domain=100)
    waiters = [world.come(A) for _ in range(10_000)]
    world.run()
    assert world.begun == waiters
    assert waiters[-1].begun == pytest.approx(99.99)
    assert world.woken < 2.1 * len(waiters)
    assert is_forgotten(world.turns)


def test_domains_do_not_wait_for_each_other() -> None:
    """Of a hundred domains each has its own pace, however long the line of another is."""
    world = World(domain=10)
    for number in range(3000):
        world.come(A if number < 1000 else f"d{number % 100}.example")
    world.run(2.01)
    times = world.times()
    assert {len(found) for found in times.values()} == {20, 21}
    assert world.woken < 2.1 * len(world.begun)


def test_the_client_s_rate_wakes_nobody_in_vain() -> None:
    """Where a thousand domains wait for the client's turn they are served in order, and one wakes at a time."""
    world = World(mail=100, domain=10)
    waiters = [world.come(f"d{number}.example") for number in range(1000)]
    world.run()
    assert world.begun == waiters
    assert waiters[-1].begun == pytest.approx(9.99)
    assert world.woken < 2.1 * len(waiters)


def test_no_more_than_may_be() -> None:
    """No more mails are under way than there are sessions, and as many as that while others wait."""
    world = World(4, mail=1000)
    for _ in range(100):
        world.come(A, takes=0.1)
    world.run()
    assert world.most == 4
    assert world.now == pytest.approx(25 * 0.1, abs=0.2)


def test_connections() -> None:
    """A domain whose mails take long holds up nobody else, and has as many under way as it may have."""
    world = World(domain=100, connections=2)
    slow = [world.come(A, takes=10.0) for _ in range(6)]
    fast = [world.come(B) for _ in range(100)]
    world.run()
    assert world.most_to_one == 2
    assert [waiter.begun // 10 for waiter in slow] == [0, 0, 1, 1, 2, 2]
    assert fast[-1].begun == pytest.approx(0.99)


@pytest.mark.parametrize("connections", [None, 1])
def test_a_mail_to_several_domains_has_its_turn(connections: int | None) -> None:
    """Although each of its domains is wanted by others all the time, it begins soon, and before those that came later.

    The others lose little by it.
    """
    random = Random(3)
    world = World(domain=10, connections=connections, late=lambda: random.uniform(0, 0.002))
    for number in range(300):
        for domain in (A, B, C):
            world.at(number * 0.09 + random.uniform(0, 0.09), partial(world.come, domain, takes=0.01))
    mixed: list[Waiter] = []
    for number in range(5):
        world.at(2.0 + 2 * number, lambda: mixed.append(world.come((A, B, C), takes=0.01)))
    world.run()
    assert len(world.begun) == 905
    for waiter in mixed:
        passed = [other for other in world.begun if other.came > waiter.came and other.begun < waiter.begun]
        assert len(passed) <= 30
        assert waiter.begun - waiter.came < 3.5
    for times in world.times().values():
        assert 304 / (times[-1] - times[0]) > 9.5
    assert is_forgotten(world.turns)


def test_a_slow_domain_does_not_hold_up_a_fast_one() -> None:
    """A mail to a domain that was slowed down and to another does not make the other wait for as long as that."""
    world = World(domain=10)
    for _ in range(7):  # a tenth of a second's worth each, and more than enough for the least pace
        assert world.pace.ask((B,), world.now) == 0
        world.pace.settled((B,), SLOWED, world.now)
        world.now += 10
    slow = [world.come((A, B)) for _ in range(3)]
    fast = [world.come(A) for _ in range(400)]
    begun = world.now
    world.run()
    assert slow[-1].begun - slow[0].begun > 3
    assert fast[-1].begun - begun == pytest.approx(40.2, abs=0.3)
    assert [waiter.begun for waiter in slow] == sorted(waiter.begun for waiter in slow)


def test_a_long_line_does_not_hold_up_another() -> None:
    """A mail to two domains has its turn after those that came before it to one; the other is served meanwhile."""
    world = World(domain=10)
    assert world.pace.ask((B,), 0.0) == 0
    world.pace.settled((B,), SLOWED, 0.0)
    line = [world.come(A) for _ in range(200)]
    mixed = world.come((A, B))
    others = [world.come(B) for _ in range(80)]
    world.run()
    assert line[-1].begun < mixed.begun < line[-1].begun + 0.3
    assert others[-1].begun == pytest.approx(80 / 5, rel=0.05)


def test_who_leaves_is_not_waited_for() -> None:
    """Whoever gives up, the one who keeps the time too, holds up nobody, and nothing is kept of him."""
    world = World(domain=10)
    waiters = [world.come(A) for _ in range(20)]
    mixed = world.come((A, B))
    for waiter in (*waiters[1:10], mixed):
        world.turns.leave(waiter.turn, None, world.now)
    world.run()
    assert [waiter.begun for waiter in waiters[10:]] == pytest.approx([0.1 * number for number in range(1, 11)])
    assert is_forgotten(world.turns)


def test_who_comes_to_nothing_in_time() -> None:
    """Where the first ones take longer to begin than those after them they do not begin all at once, and none is lost.

    Where all take as long nobody waits again.
    """
    lags = [0.4, 0.3, 0.2, 0.1]
    world = World(domain=10, lag=lambda: lags.pop(0) if lags else 0.0)
    for _ in range(30):
        world.come(A)
    world.run()
    (times,) = world.times().values()
    assert len(times) == 30
    assert most_in_a_second(times) <= 11
    assert all(later - earlier > 0.06 for earlier, later in pairwise(times))
    assert is_forgotten(world.turns)
    world = World(domain=10, lag=lambda: 0.35)
    for _ in range(30):
        world.come(A)
    world.run()
    assert world.times()[A] == pytest.approx([0.35 + 0.1 * number for number in range(30)])


def test_a_turn_that_others_took() -> None:
    """Who asks the pace itself is taken account of: the line waits longer, and goes on when that mail is settled."""
    world = World(connections=1)
    assert world.pace.ask((A,), 0.0) == 0
    waiter = world.come(A)
    world.run()
    assert not waiter.turn.granted
    world.now = 7.0
    world.pace.settled((A,), None, 7.0)
    world.run()
    assert waiter.begun == 7.0


_SETS = st.lists(st.sampled_from([A, B, C, "d.example"]), min_size=1, max_size=3, unique=True).map(tuple)


@given(
    st.lists(st.tuples(_SETS, st.floats(0, 0.2), st.floats(0, 0.5), st.booleans()), max_size=60),
    st.tuples(st.sampled_from([1000, 5, 30]), st.sampled_from([1000, 2, 13]), st.sampled_from([None, 1, 3])),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.01, 0.1, 0.5]),
    st.randoms(),
)
def test_whatever_comes(
    mails: list[tuple[tuple[str, ...], float, float, bool]],
    limits: tuple[float, float, int | None],
    most: int,
    lag: float,
    random: Random,
) -> None:
    """All begin in the end but who gave up; the limits hold at any moment; those to the same domains go in order.

    In order unless it takes them now longer and now shorter to begin.
    """
    mail, domain, connections = limits
    world = World(
        most,
        mail=mail,
        domain=domain,
        connections=connections,
        late=lambda: random.uniform(0, 0.02),
        lag=lambda: random.uniform(0, lag),
    )
    came: list[Waiter] = []
    gone: set[Waiter] = set()

    def give_up(waiter: Waiter) -> None:
        if not waiter.turn.granted:
            gone.add(waiter)
            waiter.turn.bell = None
            world.turns.leave(waiter.turn, None, world.now)

    def come(domains: tuple[str, ...], takes: float, gives_up: bool) -> None:  # noqa: FBT001
        waiter = world.come(domains, takes)
        came.append(waiter)
        if gives_up:
            world.at(world.now + takes / 2, partial(give_up, waiter))

    when = 0.0
    for domains, pause, takes, gives_up in mails:
        when += pause
        world.at(when, partial(come, domains, takes, gives_up))
    world.run()
    assert {*world.begun} == {*came} - gone
    assert world.most <= most
    assert world.most_to_one <= (connections or most)
    orders = defaultdict(list)
    for waiter in world.begun:
        orders[waiter.turn.domains].append(waiter.turn.number)
    assert lag or all(order == sorted(order) for order in orders.values())
    for times in world.times().values():
        assert most_in_a_second(times) <= domain + 1
    assert not world.begun or most_in_a_second([waiter.begun for waiter in world.begun]) <= mail + 1
    assert is_forgotten(world.turns)
