"""Errors: the tree as it is drawn, what each knows, and that they survive a pickle whole."""

import copy
import pickle
import re
from collections.abc import Iterator

import pytest

from smtpkit import errors
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
    Refused,
    SenderRefused,
    ServiceClosing,
    SMTPError,
    SpoolError,
    TimedOut,
    TLSError,
    TransportError,
    UsageError,
)
from smtpkit.protocol.reply import Reply

LATER, NEVER = Reply(451, ("4.3.0 later",)), Reply(550, ("5.1.1 no",))
OUTCOME = Outcome(("a@x",), {"b@x": NEVER}, ("c@x",), LATER, {"a@x": Reply(250)}, "<1@x>", "item")

# Each error, whether it may work if tried again, and the attributes it has besides.
ALL: list[tuple[SMTPError, bool, dict[str, object]]] = [
    (SMTPError("x"), False, {}),
    (Refused(NEVER, "NOOP"), False, {"reply": NEVER, "stage": "NOOP"}),
    (Refused(LATER, "NOOP"), True, {"reply": LATER}),
    (SenderRefused(LATER, "MAIL"), True, {"stage": "MAIL"}),
    (RecipientsRefused({"a@x": NEVER, "b@x": NEVER}), False, {"reply": NEVER, "stage": "RCPT"}),
    (RecipientsRefused({"a@x": NEVER, "b@x": LATER}), True, {"refused": {"a@x": NEVER, "b@x": LATER}}),
    (DataRefused(NEVER, "DATA"), False, {"reply": NEVER}),
    (AuthenticationRefused(NEVER, "AUTH"), False, {"challenge": None}),
    (AuthenticationRefused(LATER, "AUTH", challenge=b"{}"), True, {"challenge": b"{}", "reply": LATER}),
    (ServiceClosing(Reply(421), "RCPT"), True, {"stage": "RCPT"}),
    (TransportError("x"), True, {}),
    (ConnectError("x"), True, {"errno": None}),
    (ProxyError("x"), True, {}),
    (TLSError("x"), False, {}),
    (ChannelLost("x"), True, {"errno": None}),
    (TimedOut("x", limit="final"), True, {"limit": "final"}),
    (InDoubt("x"), False, {}),
    (ProtocolViolation("x"), False, {}),
    (NotSupported("x", extension="DSN"), False, {"extension": "DSN"}),
    (SpoolError("x"), True, {"errno": None}),
    (InvalidMail("x"), False, {}),
    (UsageError("x"), False, {}),
]


def _name(value: object) -> str | None:
    return type(value).__name__ if isinstance(value, SMTPError) else None


def _classes(of: type[SMTPError] = SMTPError) -> Iterator[type[SMTPError]]:
    yield of
    for each in of.__subclasses__():
        if each.__module__ == errors.__name__:
            yield from _classes(each)


def test_all_are_here() -> None:
    """This file looks at every class of the tree."""
    assert {type(error) for error, _, _ in ALL} == set(_classes())


def test_the_tree_is_as_drawn() -> None:
    """The docstring of the module draws the classes, their bases and the builtin they are too."""
    drawn: dict[str, tuple[str | None, str | None]] = {}
    above: list[str] = []
    for row in (errors.__doc__ or "").split("::\n")[1].splitlines():
        if found := re.match(r"    ([│ ├└─]*)([A-Z]\w+)(?: \((\w+Error)\))?", row):
            depth = len(found[1]) // 4
            above[depth:] = [found[2]]
            drawn[found[2]] = (above[depth - 1] if depth else None, found[3])
    builtin = {"OSError", "ConnectionError", "TimeoutError", "ValueError", "RuntimeError"}
    real = {
        each.__name__: (
            None if each is SMTPError else each.__bases__[0].__name__,
            next((base.__name__ for base in each.__bases__ if base.__name__ in builtin), None),
        )
        for each in _classes()
    }
    assert drawn == real


@pytest.mark.parametrize(("error", "transient", "attributes"), ALL, ids=_name)
def test_attributes(error: SMTPError, transient: bool, attributes: dict[str, object]) -> None:  # noqa: FBT001
    """Each error says whether to try again, and what it knows; its text is one line."""
    assert error.transient is transient
    for name, value in attributes.items():
        assert getattr(error, name) == value
    assert error.outcome is None
    assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(("error", "transient", "attributes"), ALL, ids=_name)
@pytest.mark.parametrize("again", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_pickle(error: SMTPError, transient: bool, attributes: dict[str, object], again: object) -> None:  # noqa: FBT001
    """Each error survives a pickle and a copy with all it knows."""
    assert callable(again)
    other = again(error)
    assert type(other) is type(error)
    assert (str(other), other.args, other.transient) == (str(error), error.args, transient)
    assert other.__dict__ == error.__dict__
    for name, value in attributes.items():
        assert getattr(other, name) == value


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(("error", "transient", "attributes"), ALL, ids=_name)
def test_pickle_with_outcome(error: SMTPError, protocol: int, transient: object, attributes: object) -> None:
    """An error and its outcome name each other, and still do after a pickle, whichever of them is pickled."""
    error = copy.copy(error)
    error.outcome = Outcome(refused={"b@x": NEVER}, error=error)
    other = pickle.loads(pickle.dumps(error, protocol))
    assert other.outcome is not None
    assert other.outcome.error is other
    assert other.outcome.refused == {"b@x": NEVER}
    outcome = pickle.loads(pickle.dumps(error.outcome, protocol))
    assert outcome.error.outcome.refused == {"b@x": NEVER}


def test_outcome_is_a_keyword() -> None:
    """Every error can be made with its outcome."""
    made = [
        Refused(NEVER, "x", outcome=OUTCOME),
        RecipientsRefused({"a@x": NEVER}, outcome=OUTCOME),
        AuthenticationRefused(NEVER, "AUTH", outcome=OUTCOME),
        TimedOut("x", limit="total", outcome=OUTCOME),
        NotSupported("x", extension="DSN", outcome=OUTCOME),
        ConnectError("x", outcome=OUTCOME),
    ]
    assert all(error.outcome is OUTCOME for error in made)


def test_text() -> None:
    """A refusal tells the stage and the reply; that of several recipients tells each, control characters escaped."""
    assert str(Refused(NEVER, "NOOP")) == "NOOP: 550 5.1.1 no"
    error = RecipientsRefused({"a@x": NEVER, "b@x": Reply(451, ("\x1b[2J",))})
    assert str(error) == r"<a@x> 550 5.1.1 no; <b@x> 451 \x1b[2J"


@pytest.mark.parametrize(
    ("builtin", "kind"),
    [
        (OSError, ConnectError),
        (ConnectionError, ChannelLost),
        (TimeoutError, TimedOut),
        (ValueError, InvalidMail),
        (RuntimeError, UsageError),
    ],
)
def test_builtin_bases(builtin: type[Exception], kind: type[SMTPError]) -> None:
    """Who knows only Python's own errors catches ours by them."""
    assert issubclass(kind, builtin)


def test_raise_for_refused() -> None:
    """An outcome raises its error, or what was refused in part; where all were accepted it does nothing."""
    Outcome(("a@x",)).raise_for_refused()
    cause = ChannelLost("cut")
    with pytest.raises(ChannelLost) as lost:
        Outcome(refused={"b@x": NEVER}, error=cause).raise_for_refused()
    assert lost.value is cause
    partly = Outcome(("a@x",), {"b@x": NEVER})
    with pytest.raises(RecipientsRefused) as refused:
        partly.raise_for_refused()
    assert refused.value.outcome is partly
    assert refused.value.refused == {"b@x": NEVER}


def test_outcome_pickles() -> None:
    """An outcome survives a pickle whole."""
    assert pickle.loads(pickle.dumps(OUTCOME)) == OUTCOME
