"""The pool decides without a loop: its every decision is shown by plain calls."""

from smtpkit.pool import Pool, Request


class Session:
    """What the pool knows of a session."""

    def __init__(self) -> None:
        self.usable = True
        self.broken = False


class Bell:
    """Counts how often it was rung."""

    rung = 0

    def set(self) -> None:
        self.rung += 1


def ask(pool: Pool[Session], key: str = "a") -> tuple[Request[Session], list[Session]]:
    request: Request[Session] = Request(key)
    return request, pool.ask(request)


def use(pool: Pool[Session], key: str = "a") -> tuple[Request[Session], Session]:
    """Ask, and open a session where none is handed out."""
    request, _ = ask(pool, key)
    assert request.granted
    if request.session is None:
        pool.opened(request, Session())
    assert request.session is not None
    return request, request.session


def test_opens_lazily_up_to_its_size() -> None:
    """Requests are granted without a session until the size is reached; then they wait."""
    pool: Pool[Session] = Pool(2)
    use(pool)
    use(pool)
    third, _ = ask(pool)
    assert not third.granted
    assert repr(pool) == "<Pool: 2 busy, 0 idle, 1 waiting, of 2>"


def test_last_used_first() -> None:
    """The session given back last is handed out first."""
    pool: Pool[Session] = Pool(3)
    (one, first), (two, second) = use(pool), use(pool)
    pool.give_back(one)
    pool.give_back(two)
    assert use(pool)[1] is second
    assert use(pool)[1] is first


def test_waiters_are_served_in_order() -> None:
    """The one who asked first gets what is given back, and its bell rings once."""
    pool: Pool[Session] = Pool(1)
    holder, session = use(pool)
    first, _ = ask(pool)
    second, _ = ask(pool)
    first.bell = Bell()
    pool.give_back(holder)
    assert first.granted
    assert first.session is session
    assert first.bell.rung == 1
    assert not second.granted
    pool.give_back(first)
    assert second.granted


def test_dead_idle_sessions_are_replaced() -> None:
    """An idle session that has died is closed, and the next living one is handed out instead."""
    pool: Pool[Session] = Pool(3)
    (one, living), (two, dead) = use(pool), use(pool)
    pool.give_back(one)
    pool.give_back(two)
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
    assert pool.give_back(holder) == [session]
    assert waiter.granted
    assert waiter.session is None


def test_a_cancelled_waiter_takes_no_place() -> None:
    """A request taken back before it was granted is out of the queue."""
    pool: Pool[Session] = Pool(1)
    holder, _ = use(pool)
    gone, _ = ask(pool)
    stays, _ = ask(pool)
    assert pool.give_back(gone) == []
    pool.give_back(holder)
    assert stays.granted


def test_a_granted_waiter_that_is_cancelled_hands_its_place_on() -> None:
    """What was granted to a waiter that gave up at the same moment goes to the next one."""
    pool: Pool[Session] = Pool(1)
    holder, session = use(pool)
    first, _ = ask(pool)
    second, _ = ask(pool)
    pool.give_back(holder)
    pool.give_back(first)
    assert second.session is session


def test_a_failed_opening_frees_its_place() -> None:
    """A request given back before its session was opened leaves room for the next."""
    pool: Pool[Session] = Pool(1)
    request, _ = ask(pool)
    waiter, _ = ask(pool)
    assert pool.give_back(request) == []
    assert waiter.granted


def test_keys_are_never_mixed() -> None:
    """A session is handed out for its own key only; where there is no room an idle one of another key is closed."""
    pool: Pool[Session] = Pool(1)
    holder, session = use(pool, "host a")
    pool.give_back(holder)
    request, close = ask(pool, "host b")
    assert request.granted
    assert request.session is None
    assert close == [session]


def test_empty_forgets_the_idle_and_names_the_busy() -> None:
    """Closing gets every session, idle and busy apart."""
    pool: Pool[Session] = Pool(2)
    (one, idle), (_, busy) = use(pool), use(pool)
    pool.give_back(one)
    assert pool.empty() == ([idle], [busy])
    assert not pool.is_empty
