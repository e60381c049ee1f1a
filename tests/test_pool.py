"""The pool decides without a loop: its every decision is shown by plain calls."""

from math import inf

import pytest

from smtpkit.pool import Pool, Request, retired


class Session:
    """What the pool knows of a session."""

    def __init__(self, began: float = 0.0, *, spent: bool = False) -> None:
        self.usable = True
        self.broken = False
        self.spent = spent
        self.began = began


class Bell:
    """Counts how often it was rung."""

    rung = 0

    def set(self) -> None:
        self.rung += 1


def ask(pool: Pool[Session], key: str = "a", now: float = 0.0) -> tuple[Request[Session], list[Session]]:
    request: Request[Session] = Request(key)
    return request, pool.ask(request, now)


def use(pool: Pool[Session], key: str = "a", now: float = 0.0) -> tuple[Request[Session], Session]:
    """Ask, and open a session where none is handed out."""
    request, _ = ask(pool, key, now)
    assert request.granted
    if request.session is None:
        pool.opened(request, Session(now))
    assert request.session is not None
    return request, request.session


def test_opens_lazily_up_to_its_size() -> None:
    """Requests are granted without a session until the size is reached; then they wait."""
    pool: Pool[Session] = Pool(2)
    use(pool)
    use(pool)
    third, _ = ask(pool)
    assert not third.granted
    assert repr(pool) == "<Pool: 2 sessions busy, 0 idle, 1 task waiting, at most 2>"


def test_last_used_first() -> None:
    """The session given back last is handed out first."""
    pool: Pool[Session] = Pool(3)
    (one, first), (two, second) = use(pool), use(pool)
    pool.give_back(one, 0.0)
    pool.give_back(two, 0.0)
    assert use(pool)[1] is second
    assert use(pool)[1] is first


def test_waiters_are_served_in_order() -> None:
    """The one who asked first gets what is given back, and its bell rings once."""
    pool: Pool[Session] = Pool(1)
    holder, session = use(pool)
    first, _ = ask(pool)
    second, _ = ask(pool)
    first.bell = Bell()
    pool.give_back(holder, 0.0)
    assert first.granted
    assert first.session is session
    assert first.bell.rung == 1
    assert not second.granted
    pool.give_back(first, 0.0)
    assert second.granted


def test_dead_idle_sessions_are_replaced() -> None:
    """An idle session that has died is closed, and the next living one is handed out instead."""
    pool: Pool[Session] = Pool(3)
    (one, living), (two, dead) = use(pool), use(pool)
    pool.give_back(one, 0.0)
    pool.give_back(two, 0.0)
    dead.usable = False
    request, close = ask(pool)
    assert request.session is living
    assert close == [dead]


def test_broken_sessions_are_never_reused() -> None:
    """A session that is not usable when it is given back is closed, and its place is free for a waiter."""
    pool: Pool[Session] = Pool(1)
    holder, session = use(pool)
    waiter, _ = ask(pool)
    session.usable = False
    assert pool.give_back(holder, 0.0) == [session]
    assert waiter.granted
    assert waiter.session is None


def test_a_cancelled_waiter_takes_no_place() -> None:
    """A request taken back before it was granted is out of the queue."""
    pool: Pool[Session] = Pool(1)
    holder, _ = use(pool)
    gone, _ = ask(pool)
    stays, _ = ask(pool)
    assert pool.give_back(gone, 0.0) == []
    pool.give_back(holder, 0.0)
    assert stays.granted


def test_a_granted_waiter_that_is_cancelled_hands_its_place_on() -> None:
    """What was granted to a waiter that gave up at the same moment goes to the next one."""
    pool: Pool[Session] = Pool(1)
    holder, session = use(pool)
    first, _ = ask(pool)
    second, _ = ask(pool)
    pool.give_back(holder, 0.0)
    pool.give_back(first, 0.0)
    assert second.session is session


def test_a_failed_opening_frees_its_place() -> None:
    """A request given back before its session was opened leaves room for the next."""
    pool: Pool[Session] = Pool(1)
    request, _ = ask(pool)
    waiter, _ = ask(pool)
    assert pool.give_back(request, 0.0) == []
    assert waiter.granted


def test_keys_are_never_mixed() -> None:
    """A session is handed out for its own key only; where there is no room an idle one of another key is closed."""
    pool: Pool[Session] = Pool(1)
    holder, session = use(pool, "host a")
    pool.give_back(holder, 0.0)
    request, close = ask(pool, "host b")
    assert request.granted
    assert request.session is None
    assert close == [session]


def test_empty_forgets_the_idle_and_names_the_busy() -> None:
    """Closing gets every session, idle and busy apart."""
    pool: Pool[Session] = Pool(2)
    (one, idle), (_, busy) = use(pool), use(pool)
    pool.give_back(one, 0.0)
    assert pool.empty() == ([idle], [busy])
    assert not pool.is_empty


# When a session began, since when it rests, what the time is, for how long it lives and may rest; and is it retired?
AGES: list[tuple[float, float, float, float, float, bool]] = [
    (0, 0, 0, 300, 60, False),
    (0, 0, 59.9, 300, 60, False),
    (0, 0, 60, 300, 60, True),
    (0, 250, 299.9, 300, 60, False),
    (0, 250, 300, 300, 60, True),
    (100, 390, 399.9, 300, 60, False),
    (0, 0, 1e9, inf, inf, False),
    (0, 0, 61, inf, 60, True),
    (0, 300, 301, 300, inf, True),
]


@pytest.mark.parametrize(("began", "rested", "now", "lifetime", "idle", "expected"), AGES)
def test_retired_by_time(
    began: float, rested: float, now: float, lifetime: float, idle: float, *, expected: bool
) -> None:
    """A session is retired when it is as old as the one, or has rested for as long as the other; a spent one always."""
    assert retired(Session(began), rested, now, lifetime=lifetime, idle=idle) is expected
    assert retired(Session(began, spent=True), rested, now, lifetime=lifetime, idle=idle)


def test_an_old_session_is_replaced() -> None:
    """However often it is used, it is not handed out once it is old, and its place is that of a new one."""
    pool: Pool[Session] = Pool(1, lifetime=300, idle=60)
    request, session = use(pool)
    for now in range(0, 300, 50):
        assert pool.give_back(request, now) == []
        request, again = use(pool, now=now)
        assert again is session
    pool.give_back(request, 299)
    request, close = ask(pool, now=300)
    assert close == [session]
    assert request.granted
    assert request.session is None


def test_idle_sessions_are_closed_whoever_asks() -> None:
    """Every one that has rested too long is closed by the next request, of whatever key; younger ones stay."""
    pool: Pool[Session] = Pool(8, idle=60)
    held = [use(pool, "b") for _ in range(3)]
    for (request, _), now in zip(held, (0, 10, 20), strict=True):
        pool.give_back(request, now)
    request, close = ask(pool, "a", now=70)
    assert close == [held[0][1], held[1][1]]
    assert request.session is None
    assert use(pool, "b", now=79)[1] is held[2][1]


def test_a_spent_session_is_replaced() -> None:
    """One that shall have no further mail makes room for another, also where somebody waits for it."""
    pool: Pool[Session] = Pool(1)
    holder, session = use(pool)
    waiter, _ = ask(pool)
    session.spent = True
    assert pool.give_back(holder, 1.0) == [session]
    assert waiter.granted
    assert waiter.session is None


def test_the_young_are_used_before_the_old() -> None:
    """Behind one that is retired the next is looked at, and is handed out if it will do."""
    pool: Pool[Session] = Pool(2, lifetime=300)
    (one, young), (two, old) = use(pool), use(pool)
    young.began, old.began = 100.0, 0.0
    pool.give_back(one, 200)
    pool.give_back(two, 200)
    request, close = ask(pool, now=310)
    assert request.session is young
    assert close == [old]


@pytest.mark.parametrize(
    ("busy", "idle", "waiting", "words"),
    [
        (0, 0, 0, "0 sessions busy, 0 idle, 0 tasks waiting, at most 3"),
        (1, 1, 0, "1 session busy, 1 idle, 0 tasks waiting, at most 3"),
        (2, 1, 0, "2 sessions busy, 1 idle, 0 tasks waiting, at most 3"),
        (3, 0, 1, "3 sessions busy, 0 idle, 1 task waiting, at most 3"),
        (3, 0, 2, "3 sessions busy, 0 idle, 2 tasks waiting, at most 3"),
    ],
)
def test_its_state_in_words(busy: int, idle: int, waiting: int, words: str) -> None:
    """It says how many there are of each, with singular and plural right."""
    pool: Pool[Session] = Pool(3)
    for request, _ in [use(pool) for _ in range(busy + idle)][:idle]:
        pool.give_back(request, 0.0)
    for _ in range(waiting):
        ask(pool)
    assert str(pool) == words
    assert repr(pool) == f"<Pool: {words}>"
