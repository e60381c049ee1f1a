"""How many sessions pay: a model of servers whose throughput grows with sessions up to a point, and of slow inputs."""

from collections.abc import Callable

import pytest

from smtpkit.bulk.growth import STEADY, Growth


def sizes(growth: Growth, rate: Callable[[int], float], *, seconds: float, ahead: float = 1.0) -> list[int]:
    """The sizes, one after the other, where so many sessions send so many mails a second."""
    now, found, mail = 0.0, [growth.size], 0
    while now < seconds:
        now += 1 / rate(growth.size)
        mail += 1
        growth.settled(now, sessions=growth.size, ahead=mail * ahead % 1 < ahead)
        if growth.size != found[-1]:
            found.append(growth.size)
    return found


@pytest.mark.parametrize(
    ("rate", "most", "expected"),
    [
        (lambda sessions: 50.0 * sessions, 8, [1, 2, 4, 8]),
        (lambda sessions: 50.0 * sessions, 5, [1, 2, 4, 5]),
        (lambda sessions: 0.5 * sessions, 8, [1, 2, 4, 8]),
        (lambda _: 5000.0, 8, [1, 2, 1]),
        (lambda sessions: 100.0 * min(sessions, 3), 32, [1, 2, 4, 8, 4]),
        (lambda sessions: 100.0 * min(sessions, 2), 4, [1, 2, 4, 2]),
        (lambda sessions: 100.0 * sessions, 1, [1]),
    ],
    ids=["all pay", "no power of two", "slow server", "none pays", "three pay", "two pay", "one only"],
)
def test_sessions_grow_as_long_as_they_pay(rate: Callable[[int], float], most: int, expected: list[int]) -> None:
    """Twice as many each time; the step that brought nothing is taken back."""
    assert sizes(Growth(most), rate, seconds=max(40 / rate(1), STEADY / 20)) == expected


def test_it_is_tried_again_later() -> None:
    """What did not pay once may pay when the server has more to give."""
    growth = Growth(8)
    assert sizes(growth, lambda _: 100.0, seconds=5) == [1, 2, 1]
    assert sizes(growth, lambda sessions: 100.0 * sessions, seconds=0.2 * STEADY) == [1, 2, 4, 8]


def test_a_slow_input_opens_no_sessions() -> None:
    """Where most mails had to be waited for, more sessions would bring nothing."""
    assert sizes(Growth(8), lambda _: 100.0, seconds=5, ahead=0.3) == [1]


def test_sessions_that_are_still_opening_are_waited_for() -> None:
    """A step is judged when all of its sessions are there."""
    growth = Growth(4)
    for mail in range(1000):
        growth.settled(mail / 100, sessions=1, ahead=True)
    assert growth.size == 2


def test_a_session_that_is_refused() -> None:
    """The number that the server takes stays for a while; there is always one."""
    growth = Growth(8)
    assert sizes(growth, lambda sessions: 50.0 * sessions, seconds=0.32) == [1, 2, 4]
    growth.refused()
    assert growth.size == 3
    assert sizes(growth, lambda sessions: 50.0 * sessions, seconds=1) == [3]
    for _ in range(9):
        growth.refused()
    assert growth.size == 1
