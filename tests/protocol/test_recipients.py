"""Which recipients go in which transaction: tables of what is said first, what is left, and the one outcome of all."""

from dataclasses import replace
from math import inf
from typing import Any, NamedTuple

import pytest

from smtpkit.errors import (
    ChannelLost,
    DataRefused,
    InDoubt,
    NotSupported,
    Outcome,
    RecipientsRefused,
    SenderRefused,
    ServiceClosing,
    SMTPError,
)
from smtpkit.protocol.envelope import Envelope, ForwardPath
from smtpkit.protocol.extension import Extensions
from smtpkit.protocol.recipients import first, merged, rest, taken
from smtpkit.protocol.reply import Reply

OK, NO, MANY, FULL = Reply(250, ("ok",)), Reply(550, ("no",)), Reply(452, ("too many",)), Reply(452, ("4.2.2 full",))


def envelope(paths: str, *, required: bool = False) -> Envelope:
    """For these addresses; one without a domain is at a.example."""
    whole = [path if "@" in path else f"{path}@a.example" for path in paths.split()]
    return Envelope.of("ann@a.example", whole, required=required)


def paths(of: Envelope | None) -> str | None:
    """The addresses of an envelope, as above."""
    return None if of is None else " ".join(path.address.removesuffix("@a.example") for path in of.forward_paths)


def offer(limits: str) -> Extensions:
    return Extensions({"LIMITS": limits, "DSN": ""})


# The limits, the paths, the domains that the session has named, what was learned, and what is said first.
FIRST: list[tuple[str, str, str, float, str | None]] = [
    ("", "b c d", "", inf, "b c d"),
    ("MAILMAX=1", "b c d", "", inf, "b c d"),
    ("RCPTMAX=3", "b c d", "", inf, "b c d"),
    ("RCPTMAX=2", "b c d", "", inf, "b c"),
    ("RCPTMAX=1", "b c d", "", inf, "b"),
    ("", "b c d", "", 2, "b c"),
    ("RCPTMAX=1", "b c d", "", 2, "b"),
    ("RCPTMAX=2", "b c d", "", 1, "b"),
    ("RCPTDOMAINMAX=1", "b c d", "", inf, "b c d"),
    ("RCPTDOMAINMAX=1", "b c@x d", "", inf, "b d"),
    ("RCPTDOMAINMAX=1", "b@x c@X d", "", inf, "b@x c@X"),
    ("RCPTDOMAINMAX=2", "b c@x d@y e@x", "", inf, "b c@x e@x"),
    ("RCPTDOMAINMAX=2", "b c@x d@y", "y", inf, "b d@y"),
    ("RCPTDOMAINMAX=2", "b c@x d@y", "y z", inf, "d@y"),
    ("RCPTDOMAINMAX=1", "b c@x", "z", inf, None),
    ("RCPTDOMAINMAX=2 RCPTMAX=2", "b c@x d@y e", "", inf, "b c@x"),
    ("RCPTDOMAINMAX=1 RCPTMAX=2", "b c@x d e", "", inf, "b d"),
]


@pytest.mark.parametrize(("limits", "whole", "named", "most", "said"), FIRST)
def test_first(limits: str, whole: str, named: str, most: float, said: str | None) -> None:
    """As many as the server takes, in order: of RCPT in a transaction, of different domains in a session."""
    assert paths(first(envelope(whole), offer(limits), named=named.split(), most=most)) == said


def test_all_else_stays() -> None:
    """What a part says of the mail and of its paths is what the whole says."""
    asking = (ForwardPath("b@x", notify=("NEVER",)), ForwardPath("c@x", original="d@x"), ForwardPath("e@x"))
    whole = Envelope("ann@x", asking, utf8=True, ret="HDRS", envelope_id="QQ1", require_tls=True)
    assert first(whole, offer("RCPTMAX=2")) == replace(whole, forward_paths=asking[:2])


@pytest.mark.parametrize("why", ["one_shot", "required"])
@pytest.mark.parametrize(
    ("limits", "named", "fits"),
    [
        ("RCPTMAX=3 RCPTDOMAINMAX=2", "", "here"),
        ("RCPTMAX=2", "", "nowhere"),
        ("RCPTDOMAINMAX=1", "", "nowhere"),
        ("RCPTDOMAINMAX=2", "z", "elsewhere"),
        ("", "", "here"),
    ],
)
def test_what_cannot_be_split(why: str, limits: str, named: str, fits: str) -> None:
    """Told once, or for all or none: it goes whole, or by another session, or the limit is named before it is sent."""
    whole = envelope("b c d@x", required=why == "required")
    offered, one_shot = offer(limits), why == "one_shot"
    if fits == "nowhere":
        with pytest.raises(NotSupported, match=f"3 recipients.*{limits}.*{'once' if one_shot else 'none'}") as error:
            first(whole, offered, one_shot=one_shot, named=named.split())
        assert error.value.extension == "LIMITS"
        assert not error.value.transient
    else:
        assert first(whole, offered, one_shot=one_shot, named=named.split()) == (whole if fits == "here" else None)


def test_what_the_last_part_needs() -> None:
    """What the server lacks for a later part is told before the first has gone out."""
    asking = replace(envelope("b c"), forward_paths=(ForwardPath("b@y"), ForwardPath("c@x", notify=("NEVER",))))
    with pytest.raises(NotSupported, match="DSN"):
        first(asking, Extensions({"LIMITS": "RCPTMAX=1"}))
    with pytest.raises(NotSupported, match="DSN"):
        first(asking, Extensions({"LIMITS": "RCPTDOMAINMAX=2"}), named=["y", "z"])


def outcome(accepted: str = "", error: SMTPError | None = None, in_doubt: str = "", **refused: Any) -> Outcome:
    """What came of a transaction."""
    found = Outcome(
        tuple(f"{path}@a.example" for path in accepted.split()),
        {f"{path}@a.example": reply for path, reply in refused.items()},
        tuple(f"{path}@a.example" for path in in_doubt.split()),
        reply=OK if accepted else getattr(error, "reply", None),
        error=error,
    )
    if error is not None:
        error.outcome = found
    return found


def nobody(**refused: Any) -> Outcome:
    """What came of a transaction in which nobody was accepted."""
    return outcome(error=RecipientsRefused({f"{path}@a.example": reply for path, reply in refused.items()}), **refused)


def code(number: int, text: str = "") -> Reply:
    return Reply(number, (text,))


class Left(NamedTuple):
    """The whole, the part that was said, what came of it; what is left, and how many are taken."""

    whole: str
    part: str
    outcome: Outcome
    left: str | None
    taken: float = inf


LEFT = {
    "all accepted": Left("b c", "b c", outcome("b c"), None),
    "some refused": Left("b c", "b c", outcome("b", c=NO), None),
    "not said yet": Left("b c d e", "b c", outcome("b c"), "d e"),
    "not said, and nobody accepted": Left("b c d e", "b c", nobody(b=NO, c=NO), "d e"),
    "too many": Left("b c d e", "b c d e", outcome("b c", d=MANY, e=MANY), "d e", 2),
    "too many, one unknown": Left("b c d e", "b c d e", outcome("c", b=NO, d=MANY, e=MANY), "d e", 2),
    "too many, and not said": Left("b c d e", "b c d", outcome("b", c=MANY, d=MANY), "c d e", 1),
    "too many, nobody accepted": Left("b c", "b c", nobody(b=MANY, c=MANY), None),
    "too many by 4.5.3": Left("b c", "b c", outcome("b", c=code(452, "4.5.3 too many")), "c", 1),
    "552 as of old": Left("b c", "b c", outcome("b", c=code(552, "too many")), "c", 1),
    "552 by 5.5.3": Left("b c", "b c", outcome("b", c=code(552, "5.5.3 too many")), "c", 1),
    "552, a full mailbox": Left("b c", "b c", outcome("b", c=code(552, "5.2.2 full")), None),
    "452, a full mailbox": Left("b c", "b c", outcome("b", c=FULL), None),
    "452 before the last accepted": Left("b c d", "b c d", outcome("b d", c=MANY), None),
    "450 is something else": Left("b c", "b c", outcome("b", c=code(450)), None),
    "550 behind those too many": Left("b c d", "b c d", outcome("b", c=MANY, d=NO), "c", 1),
    "MAIL refused": Left("b c d", "b c", outcome(error=SenderRefused(NO, "MAIL"), b=NO, c=NO), None),
    "data refused": Left("b c d", "b c", outcome(error=DataRefused(NO, "mail data"), b=NO, c=NO), None),
    "in doubt": Left("b c d", "b c", outcome(error=InDoubt("lost"), in_doubt="b c"), None),
    "lost": Left("b c d", "b c", outcome(error=ChannelLost("lost")), None),
    "closing": Left("b c d", "b c", outcome(error=ServiceClosing(code(421), "MAIL")), None),
    "by LMTP each": Left(
        "b c d",
        "b c",
        replace(nobody(b=NO, c=NO), error=DataRefused(NO, "mail data"), replies={"b@a.example": NO, "c@a.example": NO}),
        "d",
    ),
    "by LMTP, a mailbox full": Left("b c", "b c", replace(outcome("b", c=MANY), replies={"c@a.example": MANY}), None),
}


@pytest.mark.parametrize("name", LEFT)
def test_rest(name: str) -> None:
    """Left are those not said, and those behind the last accepted who were refused for their number alone."""
    whole, part, found, left, most = LEFT[name]
    assert paths(rest(envelope(whole), envelope(part), found)) == left
    assert taken(envelope(part), found) == most


@pytest.mark.parametrize("why", ["one_shot", "required"])
def test_nothing_is_left_of_what_cannot_be_split(why: str) -> None:
    """Who was refused for their number stays so, where the mail can be told once only, or was for all or none."""
    whole = envelope("b c", required=why == "required")
    assert rest(whole, whole, outcome("b", c=MANY), one_shot=why == "one_shot") is None


def _each(names: list[str]) -> dict[str, Any]:
    return dict.fromkeys(names, MANY)


def test_it_ends() -> None:
    """Whatever a server answers, each transaction settles somebody, so that there is a last one."""
    whole: Envelope | None = envelope(" ".join(f"u{number}" for number in range(40)))
    said = 0
    while whole is not None:
        part = first(whole, offer("RCPTMAX=7"))
        assert part is not None
        names = (paths(part) or "").split()
        found = outcome(names[0], **_each(names[1:])) if said % 2 else nobody(**_each(names))
        whole, said = rest(whole, part, found), said + 1
    assert said < 40


class Merging(NamedTuple):
    """The outcomes of the transactions of a mail for b, c and d; what all come to, and the class of the error."""

    each: tuple[Outcome, ...]
    accepted: str = ""
    refused: str = ""
    in_doubt: str = ""
    error: type[SMTPError] | None = None


MERGED = {
    "one": Merging((outcome("b c", d=NO),), "b c", "d550"),
    "one that nobody got": Merging((nobody(b=NO, c=NO, d=NO),), "", "b550 c550 d550", "", RecipientsRefused),
    "all accepted": Merging((outcome("b"), outcome("c d")), "b c d"),
    "too many, then accepted": Merging((outcome("b", c=MANY, d=MANY), outcome("c d")), "b c d"),
    "too many, then refused": Merging((outcome("b c", d=MANY), nobody(d=NO)), "b c", "d550"),
    "too many, and again": Merging((outcome("b c", d=MANY), nobody(d=MANY)), "b c", "d452"),
    "too many, then lost": Merging((outcome("b c", d=MANY), outcome(error=ChannelLost("x"))), "b c", "d452"),
    "too many, then in doubt": Merging(
        (outcome("b c", d=MANY), outcome(error=InDoubt("x"), in_doubt="d")), "b c", "", "d", InDoubt
    ),
    "lost": Merging((outcome("b"), outcome(error=ChannelLost("x"))), "b", "", "", ChannelLost),
    "lost after a refusal": Merging((nobody(b=NO), outcome(error=ChannelLost("x"))), "", "b550", "", ChannelLost),
    "lost, one refused before": Merging(
        (outcome("b"), outcome(error=ChannelLost("x"), c=NO)), "b", "c550", "", ChannelLost
    ),
    "in doubt": Merging((outcome("b"), outcome(error=InDoubt("x"), in_doubt="c d")), "b", "", "c d", InDoubt),
    "in doubt, and one not said": Merging(
        (outcome("b"), outcome(error=InDoubt("x"), in_doubt="c")), "b", "", "c", InDoubt
    ),
    "closing": Merging((outcome("b"), outcome(error=ServiceClosing(code(421), "MAIL"))), "b", "", "", ServiceClosing),
    "nobody, then all": Merging((nobody(b=NO), outcome("c d")), "c d", "b550"),
    "nobody at all": Merging((nobody(b=NO), nobody(c=NO, d=FULL)), "", "b550 c550 d452", "", RecipientsRefused),
    "silently lost, then nobody": Merging(
        (outcome(error=ChannelLost("x")), nobody(b=NO, c=NO, d=NO)), "", "b550 c550 d550", "", RecipientsRefused
    ),
    "MAIL refused at once": Merging(
        (outcome(error=SenderRefused(NO, "MAIL"), b=NO),), "", "b550 c550 d550", "", SenderRefused
    ),
    "MAIL refused later": Merging((outcome("b"), outcome(error=SenderRefused(FULL, "MAIL"), c=FULL)), "b", "c452 d452"),
    "data refused at once": Merging(
        (outcome(error=DataRefused(NO, "DATA"), b=NO),), "", "b550 c550 d550", "", DataRefused
    ),
    "data refused later": Merging((outcome("b"), outcome(error=DataRefused(NO, "DATA"), c=NO, d=NO)), "b", "c550 d550"),
    "data refused behind unknown ones": Merging(
        (nobody(b=NO), outcome(error=DataRefused(NO, "DATA"), c=NO, d=NO)), "", "b550 c550 d550", "", DataRefused
    ),
    "not to be had": Merging(
        (outcome("b"), outcome(error=NotSupported("x", extension="SIZE"))), "b", "", "", NotSupported
    ),
}


@pytest.mark.parametrize("name", MERGED)
def test_merged(name: str) -> None:
    """The transactions of a mail have one outcome, worded as if it had been one transaction."""
    each, *expected = MERGED[name]
    whole = envelope("b c d")
    all_ = Outcome()
    for one in each:
        all_ = merged(whole, all_, one)
    found = (
        " ".join(path[0] for path in all_.accepted),
        " ".join(f"{path[0]}{reply.code}" for path, reply in sorted(all_.refused.items())),
        " ".join(path[0] for path in all_.in_doubt),
        type(all_.error) if all_.error else None,
    )
    assert found == tuple(expected)
    assert all_.reply == next((one.reply for one in reversed(each) if one.reply), None)
    if all_.error is not None:
        assert all_.error.outcome is all_
    if isinstance(all_.error, RecipientsRefused):
        assert all_.error.refused == all_.refused


def test_merged_by_lmtp() -> None:
    """The replies to the mail data are joined; that nobody was served in the first part is no word on the others."""
    refusal = outcome(error=DataRefused(NO, "mail data"), b=NO)
    earlier = replace(refusal, replies={"b@a.example": NO}, message_id="<1@a.example>", item=1)
    whole = envelope("b c")
    later = replace(outcome("c"), replies={"c@a.example": OK}, message_id="<1@a.example>", item=1)
    all_ = merged(whole, merged(whole, Outcome(), earlier), later)
    assert all_ == replace(
        later, accepted=("c@a.example",), refused={"b@a.example": NO}, replies={"b@a.example": NO, "c@a.example": OK}
    )
    lost = merged(whole, merged(whole, Outcome(), earlier), outcome(error=ChannelLost("x")))
    assert lost.refused == {"b@a.example": NO}
    assert isinstance(lost.error, ChannelLost)
    alone = merged(whole, earlier, nobody(c=NO))
    assert isinstance(alone.error, DataRefused)
