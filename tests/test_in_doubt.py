"""What is known when the channel ends at any octet: every verdict is held against the server's record."""

from typing import Literal

import pytest

from smtpkit.errors import InDoubt, Outcome
from tests.memory import FORMS, MAIL, Talk, tried


def judge(talk: Talk, outcome: Outcome | None, *, said_all: bool) -> None:
    """Hold a verdict against the record: what was received is accepted or in doubt, and no more than that."""
    received = {path for mail in talk.received for path in mail.paths}
    assert all(mail.octets == MAIL for mail in talk.received)
    if outcome is None:
        assert not received
        return
    assert set(outcome.accepted) <= received
    assert received <= set(outcome.accepted) | set(outcome.in_doubt)
    assert not set(outcome.accepted) & set(outcome.in_doubt)
    assert not set(outcome.refused) & received
    assert isinstance(outcome.error, InDoubt) == bool(outcome.in_doubt)
    if outcome.in_doubt:
        assert said_all
        assert not outcome.error.transient if outcome.error else False
    if not talk.session.channel.broken:
        assert not outcome.in_doubt


@pytest.mark.parametrize("by_octet", [False, True], ids=["whole", "octets"])
@pytest.mark.parametrize("cut", ["end", "reset", "stall"])
@pytest.mark.parametrize("form", FORMS)
def test_server_stream_cut_at_every_octet(form: str, cut: Literal["end", "reset", "stall"], *, by_octet: bool) -> None:
    """The server's octets end, break off or stop after each of them: the verdict never says what is not so."""
    script, options = FORMS[form]
    talk, outcome = tried(script, options)
    assert outcome is not None
    written, total = len(talk.stream.sent), talk.stream.received
    doubts = 0
    for after in range(total + 1):
        talk, outcome = tried(script, options, cut_after=after, cut=cut, by_octet=by_octet)
        judge(talk, outcome, said_all=len(talk.stream.sent) == written)
        doubts += bool(outcome and outcome.in_doubt)
    assert doubts > 0


@pytest.mark.parametrize("fail", ["reset", "stall"])
@pytest.mark.parametrize("form", FORMS)
def test_client_writes_failing_at_every_octet(form: str, fail: Literal["reset", "stall"]) -> None:
    """The client's writes fail after each octet: in doubt only where the last octet had left."""
    script, options = FORMS[form]
    talk, _ = tried(script, options)
    written = len(talk.stream.sent)
    for after in range(written):
        talk, outcome = tried(script, options, fail_after=after, fail=fail)
        judge(talk, outcome, said_all=False)
        assert not talk.received
