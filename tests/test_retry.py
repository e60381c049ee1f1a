"""The policy of trying again: who, when, and when no more; tables, and what holds for any outcome."""

import pickle
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpkit.errors import (
    AuthenticationRefused,
    ChannelLost,
    ConnectError,
    DataRefused,
    InDoubt,
    InvalidMail,
    NotSupported,
    Outcome,
    ProtocolViolation,
    ProxyError,
    RecipientsRefused,
    SenderRefused,
    ServiceClosing,
    SMTPError,
    SpoolError,
    TimedOut,
    TLSError,
    UsageError,
)
from smtpkit.protocol.reply import Reply
from smtpkit.retry import Again, Retry

ACCEPTED = Reply(250, ("2.0.0 ok",))
FULL = Reply(452, ("4.2.2 over quota",))
GREY = Reply(450, ("4.2.0 greylisted",))
SLOWER = Reply(451, ("4.3.2 not so fast",))
NEVER = Reply(550, ("5.1.1 no such user",))
CLOSING = Reply(421, ("4.3.2 shutting down",))
A, B, C = "a@example.org", "b@example.org", "c@example.org"
ALL = (A, B, C)
PLAIN = Retry(attempts=9, first=10, factor=2, most=100, jitter=0, greylisted=3, maximum_age=1000)


WHAT: list[tuple[str, Outcome | SMTPError, tuple[str, ...]]] = [
    ("all accepted", Outcome(accepted=ALL, reply=ACCEPTED), ()),
    ("one refused for now", Outcome(accepted=(A, C), refused={B: FULL}), (B,)),
    ("one refused for good", Outcome(accepted=(A, C), refused={B: NEVER}), ()),
    ("of each", Outcome(accepted=(A,), refused={B: NEVER, C: GREY}), (C,)),
    ("all refused for now", RecipientsRefused({A: FULL, B: FULL, C: GREY}), ALL),
    ("all refused, one for good", RecipientsRefused({A: FULL, B: NEVER, C: FULL}), (A, C)),
    ("sender refused for now", SenderRefused(FULL, "MAIL"), ALL),
    ("sender refused for good", SenderRefused(NEVER, "MAIL"), ()),
    ("data refused for now", Outcome(refused={B: NEVER}, error=DataRefused(FULL, "END")), (A, C)),
    ("data refused for good", Outcome(refused={B: FULL}, error=DataRefused(NEVER, "END")), (B,)),
    ("421", ServiceClosing(CLOSING, "MAIL"), ALL),
    ("421 after a refusal", Outcome(refused={A: NEVER}, error=ServiceClosing(CLOSING, "DATA")), (B, C)),
    ("no connection", ConnectError("x"), ALL),
    ("no proxy", ProxyError("x"), ALL),
    ("too slow", TimedOut("x", limit="timeout"), ALL),
    ("lost, and not in doubt", ChannelLost("x"), ALL),
    ("the disk", SpoolError("x"), ALL),
    ("out of step", ProtocolViolation("x"), ALL),
    ("login refused for now", AuthenticationRefused(Reply(454, ("4.7.0 later",)), "AUTH"), ALL),
    ("login refused", AuthenticationRefused(Reply(535, ("5.7.8 no",)), "AUTH"), ()),
    ("no TLS", TLSError("x"), ()),
    ("not supported", NotSupported("x", extension="SMTPUTF8"), ()),
    ("no mail", InvalidMail("x"), ()),
    ("misuse", UsageError("x"), ()),
    ("nothing is known", Outcome(), ()),
]


@pytest.mark.parametrize(("what", "left"), [row[1:] for row in WHAT], ids=[row[0] for row in WHAT])
@pytest.mark.parametrize("in_doubt", ["hold", "retry"])
def test_who(what: Outcome | SMTPError, left: tuple[str, ...], in_doubt: Any) -> None:
    """Who was refused for now, or certainly not served for a reason that passes, is left; nobody else."""
    policy = replace(PLAIN, in_doubt=in_doubt)
    assert policy.left(what, ALL) == left
    again = policy.again(what, ALL, attempts=1, age=0, chance=0)
    assert (again.recipients if again else ()) == left


def test_an_error_with_its_outcome() -> None:
    """An error that has an outcome is judged by it."""
    error = DataRefused(FULL, "END")
    error.outcome = Outcome(refused={A: NEVER}, error=error)
    assert PLAIN.left(error, ALL) == (B, C)


@pytest.mark.parametrize(
    ("what", "hold", "retry"),
    [
        (Outcome(in_doubt=ALL, error=InDoubt("x")), (), ALL),
        (InDoubt("x"), (), ALL),
        (Outcome(accepted=(A,), refused={B: FULL}, in_doubt=(C,), error=InDoubt("x")), (B,), (B, C)),
        (Outcome(refused={B: NEVER}, in_doubt=(A, C), error=InDoubt("x")), (), (A, C)),
    ],
)
def test_in_doubt(what: Outcome | SMTPError, hold: tuple[str, ...], retry: tuple[str, ...]) -> None:
    """What may have been accepted is repeated only where that is wished; who refused is judged by the reply."""
    assert replace(PLAIN, in_doubt="hold").left(what, ALL) == hold
    assert replace(PLAIN, in_doubt="retry").left(what, ALL) == retry


@pytest.mark.parametrize(
    ("refused", "left"), [({A: NEVER}, ()), ({A: FULL}, ALL), ({B: NEVER}, (A, C)), ({A: FULL, B: NEVER}, (A, C))]
)
def test_required(refused: dict[str, Reply], left: tuple[str, ...]) -> None:
    """Without a required recipient nobody is served: where that one is refused for good, nobody is left."""
    error = RecipientsRefused({**refused, "x@example.org": FULL})
    assert PLAIN.left(error, ALL, required=(A,)) == left


@pytest.mark.parametrize(
    ("attempts", "pause"), [(1, 10), (2, 20), (3, 40), (4, 80), (5, 100), (6, 100), (2000, 100), (10**9, 100)]
)
def test_when(attempts: int, pause: float) -> None:
    """The pause doubles up to the longest, however often it was tried."""
    assert PLAIN.pause(attempts, 0) == pause
    assert replace(PLAIN, jitter=0.5).pause(attempts, 0.5) == pause * 1.25


@pytest.mark.parametrize(
    ("refused", "attempts", "pause"),
    [
        ({A: GREY}, 1, 3),
        ({A: GREY}, 2, 20),
        ({A: FULL}, 1, 10),
        ({A: SLOWER}, 1, 10),
        ({A: FULL, B: GREY}, 1, 3),
        ({A: FULL, B: NEVER}, 1, 10),
    ],
)
def test_greylisted(refused: dict[str, Reply], attempts: int, pause: float) -> None:
    """A first answer that looks like greylisting is tried again soon; a second one is like any other."""
    again = PLAIN.again(Outcome(accepted=(C,), refused=refused), ALL, attempts=attempts, age=0, chance=0)
    assert again is not None
    assert again.pause == pause


def test_greylisted_is_not_longer() -> None:
    """Who tries again sooner than servers that greylist like it goes on so."""
    assert replace(PLAIN, first=1).pause(1, 0, greylisted=True) == 1


@pytest.mark.parametrize(
    ("attempts", "age", "again"),
    [
        (1, 0, Again(ALL, 10)),
        (8, 0, Again(ALL, 100)),
        (9, 0, None),
        (10, 0, None),
        (1, 995, Again(ALL, 5)),
        (1, 1000, None),
        (1, 2000, None),
    ],
)
def test_used_up(attempts: int, age: float, again: Again | None) -> None:
    """No attempt more than there may be, none beyond the maximum age; the last comes just at that age."""
    assert PLAIN.again(ConnectError("x"), ALL, attempts=attempts, age=age, chance=0) == again


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"attempts": 0}, "attempts 0: a whole number, at least 1"),
        ({"attempts": 1.5}, "attempts 1.5: a whole number, at least 1"),
        ({"attempts": True}, "attempts True"),
        ({"first": -1}, "first -1: a number, at least 0"),
        ({"factor": 0.5}, "factor 0.5: a number, at least 1"),
        ({"most": float("nan")}, "most nan"),
        ({"greylisted": "5m"}, "greylisted '5m'"),
        ({"maximum_age": float("inf")}, "maximum_age inf"),
        ({"jitter": 2}, "jitter 2: a share of the pause, 0 to 1"),
        ({"in_doubt": "drop"}, "in_doubt 'drop': retry or hold"),
    ],
)
def test_usage(wrong: dict[str, Any], told: str) -> None:
    """A value that cannot be meant is refused by name."""
    with pytest.raises(UsageError) as caught:
        Retry(**wrong)
    assert told in str(caught.value)


def test_a_value() -> None:
    """A policy is a value: equal by what it says, pickled, and never changed."""
    assert pickle.loads(pickle.dumps(PLAIN)) == PLAIN != Retry()
    with pytest.raises(FrozenInstanceError):
        PLAIN.attempts = 3  # type: ignore[misc]


_PATHS = st.sampled_from([f"{name}@example.org" for name in "abcdef"])
_REPLIES = st.sampled_from([FULL, GREY, NEVER, CLOSING])
_ERRORS = st.sampled_from([row[1] for row in WHAT if isinstance(row[1], SMTPError)] + [InDoubt("x"), None])
_POLICIES = st.builds(
    Retry,
    attempts=st.integers(1, 9),
    first=st.floats(0, 1e6),
    factor=st.floats(1, 1e3),
    most=st.floats(0, 1e6),
    jitter=st.floats(0, 1),
    greylisted=st.floats(0, 1e6),
    maximum_age=st.floats(0, 1e7),
    in_doubt=st.sampled_from(["hold", "retry"]),
)


@st.composite
def _outcomes(draw: st.DrawFn) -> Outcome:
    paths = draw(st.lists(_PATHS, unique=True))
    first, second = sorted([draw(st.integers(0, len(paths))), draw(st.integers(0, len(paths)))])
    refused = {path: draw(_REPLIES) for path in paths[first:second]}
    return Outcome(tuple(paths[:first]), refused, tuple(paths[second:]), error=draw(_ERRORS))


_STANDING = st.tuples(st.integers(1, 12), st.floats(0, 1e7), st.floats(0, 1))


@given(_POLICIES, _outcomes(), st.lists(_PATHS, unique=True), _STANDING)
def test_whatever_comes(
    policy: Retry, outcome: Outcome, recipients: list[str], standing: tuple[int, float, float]
) -> None:
    """Nobody is served twice, asked against a final no, or made up; doubt is kept; the limits hold."""
    attempts, age, chance = standing
    again = policy.again(outcome, recipients, attempts=attempts, age=age, chance=chance)
    if again is None:
        return
    left = set(again.recipients)
    assert left <= set(recipients)
    assert again.recipients == tuple(path for path in recipients if path in left)
    assert left.isdisjoint(outcome.accepted)
    assert all(outcome.refused[path].transient for path in left & outcome.refused.keys())
    assert policy.in_doubt == "retry" or left.isdisjoint(outcome.in_doubt)
    assert attempts < policy.attempts
    assert 0 <= again.pause <= policy.most * (1 + policy.jitter)
    assert age + again.pause <= policy.maximum_age * (1 + 1e-9)


@given(_POLICIES, st.integers(1, 10**6), st.floats(0, 1), st.booleans())
def test_pauses_grow(policy: Retry, attempts: int, chance: float, greylisted: bool) -> None:  # noqa: FBT001
    """No pause is shorter than the one before, and chance only adds to it."""
    pause = policy.pause(attempts, chance, greylisted=greylisted)
    assert pause <= policy.pause(attempts + 1, chance)
    assert policy.pause(attempts, 0, greylisted=greylisted) <= pause
