"""The throttle: the mean, the worst second, and what an idle period is worth, all with passed-in times."""

from bisect import bisect_left
from collections.abc import Callable
from random import Random

import pytest

from smtpkit.throttle import Throttle

Jitter = Callable[[Random], float]
Written = list[tuple[float, int]]

JITTERS: dict[str, Jitter] = {
    "exact": lambda random: 0.0,
    "usual": lambda random: random.uniform(0, 0.002),
    "coarse": lambda random: random.choice((0.0001, 0.001, 0.005, 0.015)),  # 15 ms: a Windows tick
}


def write(throttle: Throttle, now: float, octets: int, jitter: Jitter, random: Random) -> tuple[float, Written]:
    """Write a mail as a channel does; sleeps are late by ``jitter``. Returns the time it ended and what was written."""
    written = []
    while octets:
        piece = min(octets, throttle.piece)
        when = throttle.take(piece, now)
        if when > now:
            now = when + jitter(random)
        written.append((now, piece))
        octets -= piece
    return now, written


def worst_second(written: Written) -> int:
    """The most octets written in any one second."""
    times = [time for time, _ in written]
    sums = [0]
    for _, octets in written:
        sums.append(sums[-1] + octets)
    return max(sums[bisect_left(times, time + 1)] - sums[index] for index, time in enumerate(times))


# Some are chosen so that a piece, or a second, divides badly.
RATES = (1_000, 1_601, 4_999, 10_000, 33_333, 68_100, 100_000, 1_000_000, 10_000_000, 100_000_000)


@pytest.mark.parametrize("jitter", JITTERS.values(), ids=JITTERS)
@pytest.mark.parametrize("rate", RATES)
def test_mean_and_worst_second(rate: int, jitter: Jitter) -> None:
    """Over two seconds the mean is within 0.1 % of the rate, and no second sees more than 1.03 times the rate."""
    throttle = Throttle(rate)
    ended, written = write(throttle, 5.0, rate * 2, jitter, Random(1))
    ended = throttle.take(0, ended)  # the last piece, too, takes its time
    assert ended - 5.0 == pytest.approx(2, rel=0.001, abs=0)
    assert worst_second(written) <= rate * 1.03


@pytest.mark.parametrize("idle", [0.0, 0.04, 0.2, 3600.0])
@pytest.mark.parametrize("rate", RATES)
def test_each_mail_by_itself(rate: int, idle: float) -> None:
    """Whoever watches one mail of two seconds sees the mean within 0.5 %, however long nothing was sent before it."""
    random, now = Random(4), 0.0
    throttle = Throttle(rate)
    for _ in range(3):
        now, written = write(throttle, now + idle, rate * 2, JITTERS["usual"], random)
        (first, head), (last, _) = written[0], written[-1]
        between = sum(octets for _, octets in written) - head
        assert between / (last - first) == pytest.approx(rate, rel=0.005, abs=0)


@pytest.mark.parametrize("rate", RATES)
def test_one_schedule_for_many_mails(rate: int) -> None:
    """Mails of any size, back to back or with pauses, keep to the rate together; the pauses save nothing."""
    random = Random(2)
    throttle, now = Throttle(rate), 0.0
    written: Written = []
    for _ in range(100):
        now, more = write(throttle, now, random.randrange(1, rate // 5), JITTERS["usual"], random)
        written += more
        now += random.choice((0.0, 0.0, 0.004, 0.016, 0.029, 0.3))
    assert worst_second(written) <= rate * 1.03


@pytest.mark.parametrize(
    "jitter",
    [
        lambda random: random.uniform(0, 0.2),
        lambda random: random.choice((0.0, 0.6)),
        lambda random: random.choice((0.0, 0.015, 0.029, 0.031)),
    ],
)
@pytest.mark.parametrize("rate", RATES)
def test_a_stalling_caller_makes_no_burst(rate: int, jitter: Jitter) -> None:
    """Sleeps that are late by far lose their time: the mean is lower, and the worst second stays within 1.03."""
    _, written = write(Throttle(rate), 0.0, 4 * rate, jitter, Random(3))
    assert worst_second(written) <= rate * 1.03


def test_an_idle_period_saves_nothing() -> None:
    """After it the schedule begins anew with what is written first, as it does at the very beginning."""
    throttle = Throttle(1_000_000)
    for now in (0.0, 0.04, 3600.0):
        assert throttle.take(7500, now) == now
        assert throttle.take(0, now) == now + 0.0075


def test_a_late_sleep_is_made_good() -> None:
    """Who was late by up to 15 ms has it back from the next sleep; of more than that 15 ms, or as idle nothing."""
    for late, back in ((0.004, 0.004), (0.015, 0.015), (0.029, 0.015), (0.031, 0.0)):
        throttle = Throttle(1_000_000)
        throttle.take(7500, 1.0)
        now = 1.0075 + late
        assert throttle.take(7500, now) == pytest.approx(now - back)


def test_the_first_piece_goes_at_once() -> None:
    """The sleep stands before the write, so a small mail on a fresh schedule does not wait, and its reply neither."""
    throttle = Throttle(1000.0)
    assert throttle.take(512, 7.0) == 7.0
    assert throttle.take(512, 7.0) == pytest.approx(7.512)


def test_senders_share_one_schedule() -> None:
    """Two senders that ask in turn get their places one behind the other."""
    throttle = Throttle(1000.0)
    assert [throttle.take(500, 0.0) for _ in range(4)] == pytest.approx([0.0, 0.5, 1.0, 1.5])


@pytest.mark.parametrize(
    ("rate", "piece"), [(0.5, 1), (1000, 7), (10_000, 75), (100_000, 750), (1e6, 7500), (1e7, 75_000), (1e9, 262_144)]
)
def test_piece(rate: float, piece: int) -> None:
    """A piece is 7.5 ms worth of octets, and at most 256 Ki."""
    assert Throttle(rate).piece == piece
