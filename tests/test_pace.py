"""The pace of mails: the mean, any second, what a refusal does to a domain, what is kept in memory; times are told."""

from bisect import bisect_left
from collections import defaultdict
from itertools import pairwise
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpkit.errors import (
    ChannelLost,
    DataRefused,
    Outcome,
    RecipientsRefused,
    SenderRefused,
    ServiceClosing,
)
from smtpkit.options import Options
from smtpkit.pace import FEW, HOLD, LEAST, NEAR, RECOVERY, Pace
from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.reply import Reply
from smtpkit.turns import domains_of

A, B, C = "a.example", "b.example", "c.example"
ROUNDING = 1e-9  # seconds by which the sum of many intervals may be less than it would be on paper
SLOWER = Reply(451, ("4.3.2 not so fast",))
GREY = Reply(450, ("4.2.0 greylisted",))
FULL = Reply(452, ("4.2.2 over quota",))
NEVER = Reply(550, ("5.1.1 no such user",))
ACCEPTED = Outcome(accepted=("x@a.example",))
SLOWED = Outcome(refused={"x@a.example": SLOWER}, error=RecipientsRefused({"x@a.example": SLOWER}))


def pace(mail: float | None = None, domain: float | None = None, connections: int | None = None) -> Pace:
    return Pace(mail_rate=mail, domain_rate=domain, domain_connections=connections)


def most_in_a_second(times: list[float], inexact: float = ROUNDING) -> int:
    """The most of these moments, in order, that any one second has, less what its end is inexact by."""
    return max(bisect_left(times, time + 1 - inexact) - index for index, time in enumerate(times))


def begin(one: Pace, domains: tuple[str, ...], now: float) -> float:
    """When a mail begins whose sender asks as often as it is told to."""
    while pause := one.ask(domains, now):
        assert pause < inf
        now += pause
    return now


def rate(one: Pace, domain: str, now: float) -> float:
    """Mails per second to a domain at present."""
    keeps = one.keeps(domain, now)
    return 1 / keeps if keeps else inf


def refuse(one: Pace, domain: str, now: float) -> None:
    """A mail to a domain begins, and is refused for now."""
    assert one.ask((domain,), now) == 0
    one.settled((domain,), SLOWED if domain == A else Outcome(error=SenderRefused(SLOWER, "MAIL")), now)


@given(
    st.floats(0.2, 300) | st.integers(1, 300),
    st.lists(st.tuples(st.floats(0, 0.12) | st.floats(0, 2), st.floats(0, 1.2)), min_size=1, max_size=5),
)
def test_any_second(most: float, late: list[tuple[float, float]]) -> None:
    """However late its callers are, and whatever silence there was, no second sees more than rate + 1 mails begin."""
    for one, domains in ((pace(mail=most), ()), (pace(domain=most), (A,))):
        now, times = 1000.0, []
        for lateness, punctual in late:
            now += lateness
            for _ in range(2 + int(punctual * most)):
                now = begin(one, domains, now)
                times.append(now)
                one.settled(domains, ACCEPTED, now)
        assert most_in_a_second(times) <= most + 1


@pytest.mark.parametrize("wanted", [0.5, 1, 3, 7.3, 20, 50, 100])
@pytest.mark.parametrize("kind", ["mail_rate", "domain_rate"])
def test_mean(kind: str, wanted: float) -> None:
    """Sleeps that are late by some milliseconds do not add up: the mean of a hundred mails is the rate."""
    nothing: dict[str, Any] = dict.fromkeys(("mail_rate", "domain_rate", "domain_connections"))
    random, one, times = Random(7), Pace(**(nothing | {kind: wanted})), []
    now = 5.0
    for _ in range(101):
        while pause := one.ask((A,), now):
            now += pause + random.uniform(0, 0.003)
        times.append(now)
    assert 100 / (times[-1] - times[0]) == pytest.approx(wanted, rel=0.001, abs=0)


def test_smooth() -> None:
    """Mails begin evenly, also after a silence, which saves nothing."""
    one = pace(domain=10)
    for silence in (0.0, 3600.0):
        now = silence
        times = [now := begin(one, (A,), now) for _ in range(5)]
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert gaps == pytest.approx([0.1] * 4)


def test_the_slower_of_both() -> None:
    """A mail waits for the turn of the client and for that of its domain; other domains go on meanwhile."""
    one = pace(mail=100, domain=10)
    times: defaultdict[str, list[float]] = defaultdict(list)
    now = 0.0
    while now < 3:
        pauses = [one.ask((domain,), now) for domain in (A, B, C)]
        for domain, pause in zip((A, B, C), pauses, strict=True):
            if not pause:
                times[domain].append(now)
        now += min(pauses) or 0.001
    assert [len(times[domain]) for domain in (A, B, C)] == pytest.approx([30, 30, 30], abs=2)
    assert most_in_a_second(sorted(times[A] + times[B] + times[C])) <= 101


def test_all_or_none() -> None:
    """A mail to several domains takes the turn of each; where one is not to be had it takes none, and says how long."""
    one = pace(domain=10)
    assert one.ask((A,), 0.0) == 0
    assert one.ask((A, B), 0.0) == pytest.approx(0.1)
    assert one.ask((B,), 0.02) == 0
    assert one.ask((A, B), 0.1) == pytest.approx(0.02)
    assert one.ask((A, B), 0.125) == 0
    assert one.ask((A,), 0.125) > 0
    assert one.ask((B,), 0.125) > 0
    assert one.ask((C,), 0.125) == 0


def test_under_way() -> None:
    """No more mails to a domain are under way than may be; the next waits until one is settled, however it ended."""
    one = pace(connections=2)
    assert [one.ask(domains, 0.0) for domains in ((A,), (A, B), (A,), (B, C), (B,))] == [0, 0, inf, 0, inf]
    for ended in (ACCEPTED, None, Outcome(error=ChannelLost("x"))):
        one.settled((A,), ended, 1.0)
        assert one.ask((A,), 1.0) == 0
        assert one.ask((A,), 1.0) == inf


def test_no_pace() -> None:
    """Where nothing was asked for a Pace is false, lets everything go, and remembers nothing."""
    one = pace()
    assert not one
    assert [one.ask((A,), 0.0) for _ in range(9)] == [0.0] * 9
    one.settled((A,), SLOWED, 0.0)
    assert one.ask((A,), 0.0) == 0
    assert not one._domains
    assert pace(mail=1)
    assert pace(domain=1)
    assert pace(connections=1)
    assert not Pace.of(Options.of("smtp://h?rate=9&session_rate=9"))
    assert Pace.of(Options.of("smtp://h?domain_connections=9")).keeps(A, 0.0) == 0


@pytest.mark.parametrize(
    ("outcome", "slowed"),
    [
        (SLOWED, A),
        (Outcome(accepted=("y@b.example",), refused={"x@A.Example": SLOWER}), A),
        (Outcome(accepted=("y@b.example",), refused={"x@a.example": GREY}), A),
        (Outcome(refused={"x@a.example": NEVER, "y@b.example": SLOWER}), B),
        (Outcome(error=SenderRefused(SLOWER, "MAIL")), A + B),
        (Outcome(refused={"x@a.example": NEVER}, error=DataRefused(SLOWER, "END")), A + B),
        (Outcome(error=ServiceClosing(Reply(421, ("4.3.2 down",)), "EHLO")), A + B),
        (Outcome(error=DataRefused(Reply(452, ("4.3.1 full",)), "DATA")), A + B),
        (Outcome(refused={"x@a.example": FULL}, error=RecipientsRefused({"x@a.example": FULL})), ""),
        (Outcome(error=SenderRefused(NEVER, "MAIL")), ""),
        (Outcome(error=ChannelLost("x")), ""),
        (ACCEPTED, ""),
        (None, ""),
    ],
)
def test_who_is_slowed_down(outcome: Outcome | None, slowed: str) -> None:
    """A refused recipient slows its domain down, a refused mail all its domains; what hints at nothing does not."""
    one = pace(domain=10)
    assert one.ask((A, B), 0.0) == 0
    one.settled((A, B), outcome, 1.0)
    assert [rate(one, domain, 1.0) for domain in (A, B)] == [5 if domain in slowed else 10 for domain in (A, B)]


def test_halved() -> None:
    """The pace is half what it was after a refusal, a quarter after a later one, and never less than the least."""
    one, now, share = pace(domain=100), 0.0, 1.0
    for _ in range(40):
        refuse(one, A, now)
        share = max(share / 2, LEAST)
        assert rate(one, A, now) == pytest.approx(100 * share)
        now += HOLD
        share += HOLD / RECOVERY
    assert share < 2 * LEAST


def test_one_event() -> None:
    """Refusals of mails that were under way together halve the pace once, however many there are."""
    one, now = pace(domain=100), 0.0
    for _ in range(16):
        now = begin(one, (A,), now)
    for number in range(16):
        one.settled((A,), SLOWED, now + number * HOLD / 17)
    assert rate(one, A, now) == pytest.approx(50)


def test_the_next_waits_longer() -> None:
    """What was halved holds from the next mail on, the one that would have been due already."""
    one = pace(domain=10)
    refuse(one, A, 10.0)
    times = [now := 10.0]
    times += [now := begin(one, (A,), now) for _ in range(5)]
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert gaps == pytest.approx([0.2] * 5, rel=0.01)


def test_recovery() -> None:
    """After a refusal the pace grows evenly, and is whole again in half of the time that the whole takes."""
    one = pace(domain=12)
    refuse(one, A, 0.0)
    found = [rate(one, A, part * RECOVERY) for part in (0, 0.125, 0.25, 0.375, 0.5, 0.625, 9)]
    assert found == pytest.approx([6, 7.5, 9, 10.5, 12, 12, 12])
    refuse(one, A, RECOVERY)
    assert rate(one, A, RECOVERY) == pytest.approx(6)


@pytest.mark.parametrize("one", [pace(mail=1000), pace(connections=99)], ids=["mail_rate", "domain_connections"])
def test_without_a_rate(one: Pace) -> None:
    """A domain without a rate is slowed down from the pace at which it was served of late, until it has recovered."""
    now = 0.0
    for number in range(2000):  # 20 mails per second for a hundred seconds, to two domains in turn
        now = number * 0.05
        assert one.ask((A,), now) == 0
        one.settled((A,), ACCEPTED, now)
    refuse(one, A, now + 0.05)
    assert rate(one, A, now) == pytest.approx(10, rel=0.05)
    assert rate(one, A, now + RECOVERY / 4) == pytest.approx(15, rel=0.05)
    assert rate(one, A, now + RECOVERY / 2 + 1) == inf
    refuse(one, B, now + 0.1)
    assert rate(one, B, now + 0.1) == pytest.approx(0.5)


@given(
    st.floats(0.2, 30) | st.integers(1, 30),
    st.lists(st.floats(-0.1, 0.2) | st.floats(0, 0.01), min_size=1, max_size=50),
)
@example(6 - 4e-15, [0.0])
@example(255 / 256, [0.0, 2 / 256])
def test_really_begun(most: float, strays: list[float]) -> None:
    """Whatever comes between turns and their mails, of those that may begin there are not too many in any second."""
    for one, domains in ((pace(mail=most), ()), (pace(domain=most), (A,))):
        now, times = 1000.0, [1000.0]
        while now < 1001.5:
            for stray in strays:
                now = begin(one, domains, now)
                at = max(now + stray * min(1, 20 / most), times[-1])
                if one.begins(domains, at):
                    times.append(at)
                one.settled(domains, None, now)
        assert most_in_a_second(times[1:], NEAR + ROUNDING) <= most + 1


def test_a_pace_that_recovers_is_asked_for_again() -> None:
    """A domain that is served very slowly by now is not waited for at that pace, since it recovers meanwhile."""
    one, now = pace(domain=1), 0.0
    for _ in range(8):
        now = begin(one, (A,), now)
    for _ in range(8):
        now += HOLD
        one.settled((A,), SLOWED, now)
    slow = rate(one, A, now)
    assert slow < 0.03
    assert 0 < one.ask((A,), now) <= HOLD
    assert begin(one, (A,), now) - now < 0.5 / slow


def test_late_and_soon() -> None:
    """A mail that begins as late as those before it may; one that would follow too soon may not, and may later."""
    one = pace(mail=1000, domain=10)
    times = []
    for now in (0.0, 0.1, 0.2):
        assert one.ask((A, B), now) == 0
    for at, may in ((0.4, True), (0.41, False), (0.46, False), (0.47, True), (0.6, True), (0.65, False), (0.68, True)):
        assert one.begins((A, B), at) is may
        times.append(at)
    assert one.begins((A,), 0.78)
    assert not one.begins((B, A), 0.79)
    assert one.begins((B,), 0.79)


def test_memory() -> None:
    """Of a hundred thousand domains only those are remembered that are slowed down, busy or due later."""
    one, now = pace(domain=10), 0.0
    refuse(one, A, now)
    assert one.ask((B,), now) == 0
    for number in range(100_000):
        now += 0.001
        domains = (f"d{number}.example",)
        assert one.ask(domains, now) == 0
        one.settled(domains, ACCEPTED, now)
    assert len(one._domains) <= 2 * FEW
    assert rate(one, A, now) == pytest.approx(5 + 10 * now / RECOVERY)
    one.settled((B,), ACCEPTED, now)


def test_domains_of() -> None:
    """The domains of a mail are those of its forward-paths, each once, whatever their case and the local part."""
    envelope = Envelope.of("s@c.example", ["x@A.example", "y@a.EXAMPLE", '"a@b"@b.example', "z@[192.0.2.1]"])
    assert domains_of(envelope) == {A, B, "[192.0.2.1]"}
