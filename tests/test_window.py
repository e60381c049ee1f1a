"""The window: nothing overlaps before it is proven, then it doubles with each round trip; a host's habits are kept."""

import pytest

from smtpkit.window import MOST_LOSSES, OCTETS, PATIENCE, Habits, Window


def test_opens_like_slow_start() -> None:
    """One mail, then two, four, eight, up to the most: each settled mail makes room for one more."""
    window = Window(16, Habits(), pipelining=True)
    sizes = [window.size]
    window.settled(0.0)
    window.proven()
    for _ in range(4):
        sizes.append(window.size)
        for _ in range(window.size):
            window.settled(0.0)
    assert sizes == [1, 2, 4, 8, 16]
    assert window.size == 16


def test_room_is_bounded_in_mails_and_in_octets() -> None:
    """Another mail begins where fewer than ``size`` are unheard, of less than a mebibyte; the first one always."""
    window = Window(16, Habits(overlap=True), pipelining=True)
    assert window.size == 2
    assert window.has_room(0, 0)
    assert window.has_room(0, 2 * OCTETS)
    assert window.has_room(1, OCTETS - 1)
    assert not window.has_room(1, OCTETS)
    assert not window.has_room(2, 0)


@pytest.mark.parametrize(
    ("most", "habits", "pipelining"),
    [(16, Habits(), False), (1, Habits(), True), (16, Habits(overlap=False), True)],
    ids=["no PIPELINING", "a window of one", "known not to bear it"],
)
def test_nothing_overlaps(most: int, habits: Habits, *, pipelining: bool) -> None:
    """Where it cannot be, or is not wanted, nothing is tried and nothing overlaps, however much is settled."""
    window = Window(most, habits, pipelining=pipelining)
    assert not window.untried
    for _ in range(9):
        window.settled(1.0)
    assert window.size == 1


def test_a_probe_is_due_once_for_a_host() -> None:
    """What one session has proven holds for the next."""
    habits = Habits()
    window = Window(16, habits, pipelining=True)
    assert window.untried
    window.proven()
    assert not window.untried
    assert Window(16, habits, pipelining=True).size == 2


def test_patience_grows_with_the_time_that_mails_take() -> None:
    """A probe is given ten seconds, or four times what the slowest mail took."""
    window = Window(16, Habits(), pipelining=True)
    assert window.patience == PATIENCE
    window.settled(5.0)
    window.settled(1.0)
    assert window.patience == 20.0


def test_silence_is_believed_at_once() -> None:
    """A host that did not answer RSET bears no overlap; one that did, and hung at BDAT, bears it but has no BDAT."""
    habits = Habits()
    habits.silent(heard=False)
    assert habits == Habits(overlap=False)
    habits = Habits()
    habits.silent(heard=True)
    assert habits == Habits(overlap=True, chunking=False)


def test_a_loss_may_be_chance() -> None:
    """A host is believed to bear no overlap when it has happened twice that a session ended behind the first mail."""
    habits = Habits(overlap=True)
    for _ in range(MOST_LOSSES):
        assert habits.overlap
        habits.lost()
    assert habits.overlap is False


def test_doubts_halve_what_is_put_at_risk() -> None:
    """A death that left several mails in doubt halves the window, to two at least; what is settled widens it again."""
    habits = Habits(overlap=True)
    window = Window(32, habits, pipelining=True)
    for _ in range(40):
        window.settled(0.1)
    assert window.size == 32
    habits.doubtful(32)
    window = Window(32, habits, pipelining=True)
    for _ in range(40):
        window.settled(0.1)
    assert window.size == 18
    for _ in range(300):
        window.settled(0.1)
    assert window.size == 32
    for mails in (8, 3, 1):
        habits.doubtful(mails)
    assert habits.most == 2
    assert Window(32, habits, pipelining=True).size == 2
