"""What a bulk job has come to, in figures: what counts as what, how long replies took, in constant memory."""

import asyncio
import random
import tracemalloc
from collections import Counter
from typing import Any

import pytest

import smtpkit
from smtpkit.cli.figures import Failure, Figures, Histogram, Latencies, Timeline, fate, sum_up, words
from smtpkit.testing import Script, Server

LATER = smtpkit.Reply(451, ("4.3.0 later",))
NEVER = smtpkit.Reply(550, ("5.1.1 <b@x.org>: never",))
DONE = smtpkit.Reply(250, ("2.0.0 Ok: queued as 4F3A99",))


@pytest.mark.parametrize(
    ("outcome", "found"),
    [
        (smtpkit.Outcome(accepted=("b@x.org",)), "accepted"),
        (smtpkit.Outcome(in_doubt=("b@x.org",), error=smtpkit.InDoubt("lost")), "in doubt"),
        (smtpkit.Outcome(refused={"b@x.org": NEVER}), "refused"),
        (smtpkit.Outcome(refused={"b@x.org": LATER}), "deferred"),
        (smtpkit.Outcome(error=smtpkit.SenderRefused(NEVER, "MAIL")), "refused"),
        (smtpkit.Outcome(error=smtpkit.DataRefused(LATER, "mail data")), "deferred"),
        (smtpkit.Outcome(error=smtpkit.NotSupported("x", extension="SMTPUTF8")), "deferred"),
        (smtpkit.Outcome(error=smtpkit.InvalidMail("x")), "invalid"),
        (smtpkit.Outcome(error=smtpkit.ConnectError("x")), "deferred"),
        (smtpkit.Outcome(error=smtpkit.TLSError("x")), "deferred"),
        (smtpkit.Outcome(error=smtpkit.AuthenticationRefused(NEVER, "AUTH")), "deferred"),
        (smtpkit.Outcome(error=smtpkit.ProtocolViolation("x")), "deferred"),
        (smtpkit.Outcome(), "deferred"),
    ],
)
def test_fate(outcome: smtpkit.Outcome, found: str) -> None:
    """Refused is only what a server has refused for good; a session that fails is no verdict on a mail."""
    assert fate(outcome) == found


def test_words() -> None:
    """Why a mail was not accepted is told in the server's words, or else in ours."""
    assert words(smtpkit.Outcome(refused={"b@x.org": NEVER})) == "550 5.1.1 <b@x.org>: never"
    assert words(smtpkit.Outcome(error=smtpkit.DataRefused(LATER, "mail data"))) == "451 4.3.0 later"
    assert words(smtpkit.Outcome(error=smtpkit.ConnectError("nobody there"))) == "nobody there"


def test_histogram() -> None:
    """Quantiles are right to within an eighth, over nine powers of ten."""
    histogram = Histogram()
    assert (histogram.quantile(0.5), histogram.most) == (0.0, 0.0)
    chance = random.Random(1)
    values = sorted(10 ** chance.uniform(-4.9, 3.9) for _ in range(5000))
    for value in values:
        histogram.add(value)
    for share in (0.01, 0.25, 0.5, 0.95, 0.99):
        assert histogram.quantile(share) == pytest.approx(values[int(share * len(values))], rel=0.13)
    assert histogram.quantile(1) == histogram.most == values[-1]


def test_extremes_of_a_histogram() -> None:
    """What is quicker or slower than all classes belongs to the first or the last."""
    histogram = Histogram()
    for value in (-1.0, 0.0, 1e-9, 1e9):
        histogram.add(value)
    assert (histogram.counts[0], histogram.counts[-1]) == (3, 1)
    assert histogram.most == 1e9


def test_timeline() -> None:
    """However long it takes, there are at most 240 spans, and none of the mails is lost."""
    timeline = Timeline()
    for second in range(100_000):
        timeline.add(second + 0.5, "accepted" if second % 10 else "refused")
    assert 120 <= len(timeline.spans) <= 240
    assert sum(timeline.spans, Counter()) == {"accepted": 90_000, "refused": 10_000}
    assert timeline.width * len(timeline.spans) >= 100_000
    per_span = [one.total() / timeline.width for one in timeline.spans[:-1]]
    assert min(per_span) == pytest.approx(max(per_span), rel=0.01)


def test_figures() -> None:
    """A mail is counted by its fate; why it failed is kept for the first of them, and the last."""
    figures = Figures(4, 10.0)
    figures.KEPT = 1  # so that it is soon reached
    figures.settle(smtpkit.Outcome(accepted=("a@x.org",), reply=DONE), "a@X.org", 2, 10.1)
    figures.settle(smtpkit.Outcome(refused={"b@x.org": NEVER}), "b@x.org", 3, 10.2)
    figures.settle(smtpkit.Outcome(error=smtpkit.ConnectError("x")), "c@y.org", 4, 10.3)
    assert figures.counts == {"accepted": 1, "refused": 1, "deferred": 1}
    assert figures.failures == [Failure("b@x.org", 3, "refused", "550 5.1.1 <b@x.org>: never")]
    assert figures.latest == Failure("c@y.org", 4, "deferred", "x")
    assert (figures.failed, figures.done, len(figures.timeline.spans)) == (2, 3, 7)


def test_sum() -> None:
    """What a ledger counts is summed up by fate, domain and reply; what was never handed out counts as nothing."""
    plain: dict[str, Any] = {"domains": {}, "replies": {}}
    counts = smtpkit.Counts(
        accepted=5,
        domains={
            "y.org": smtpkit.Counts(in_doubt=1, deferred=1, **plain),
            "x.org": smtpkit.Counts(accepted=5, refused=2, **plain),
            "z.org": smtpkit.Counts(waiting=3, **plain),
            "": smtpkit.Counts(refused=1, **plain),
        },
        replies={
            "250 2.0.0 Ok: queued as …": 5,
            "550 5.1.1 no": 2,
            "InDoubt: lost": 1,
            "ConnectError: nobody": 1,
            "InvalidMail: x": 1,
            "450 4.2.0 later": 1,
            "…": 1,
        },
    )
    found = sum_up(counts, 4)
    assert found.fates == {"accepted": 5, "refused": 2, "in doubt": 1, "deferred": 1, "invalid": 5}
    assert [(name, dict(each)) for name, each in found.domains] == [
        ("x.org", {"accepted": 5, "refused": 2}),
        ("y.org", {"in doubt": 1, "deferred": 1}),
    ]
    assert found.replies == [
        ("250 2.0.0 Ok: queued as …", "accepted", 5),
        ("550 5.1.1 no", "refused", 2),
        ("450 4.2.0 later", "deferred", 1),
        ("ConnectError: nobody", "deferred", 1),
        ("InDoubt: lost", "in doubt", 1),
        ("InvalidMail: x", "invalid", 1),
        ("…", None, 1),
    ]


async def _measured(server: Server, count: int, **options: object) -> Latencies:
    latencies = Latencies()
    async with smtpkit.Client(server.url, **options) as client:  # type: ignore[arg-type]
        for kind in latencies.KINDS:
            client.on(kind, latencies)
        letters = [smtpkit.Message(sender="a@example.com", to=f"b{number}@x.org", text="Hi") for number in range(count)]
        async with client.send_many(letters, sessions=1) as outcomes:
            async for _ in outcomes:
                pass
        assert latencies.sessions == 1
    return latencies


@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
@pytest.mark.parametrize("extensions", [("PIPELINING", "CHUNKING"), ("PIPELINING",), ()], ids=["bdat", "data", "plain"])
def test_latencies(tls: str, extensions: tuple[str, ...]) -> None:
    """Each reply is measured from its own command on, whatever overlaps, and whenever TLS begins."""
    script = Script(
        tls=tls,  # type: ignore[arg-type]
        extensions=extensions,
        delay={"END": 0.02},
        replies={"RCPT:b3@x.org": "550 5.1.1 no"},
    )
    options = {} if tls == "none" else {"tls": {"starttls": "required"}.get(tls, tls), "tls_name": "localhost"}
    with Server(script) as server:
        context = {} if tls == "none" else {"ssl_context": server.client_context()}
        latencies = asyncio.run(_measured(server, 6, **options, **context))
    found = {stage: one.count for stage, one in latencies.stages.items()}
    assert (found["MAIL"], found["RCPT"], found["greeting"]) == (6, 6, 1)
    assert (found["STARTTLS"], found["TLS"]) == (tls == "starttls", tls != "none")
    assert found["EHLO"] == 1 + (tls == "starttls")
    verdicts = latencies.stages["mail data"]
    assert 5 <= verdicts.count <= 6
    assert verdicts.most > 0.02
    assert latencies.stages["greeting"].most < 5
    assert (latencies.sessions, latencies.opened) == (0, 1)
    assert latencies.octets > 5 * 100


def test_several_replies_to_mail_data() -> None:
    """In LMTP the first of the replies to the mail data is measured, and the others put nothing out of order."""
    with Server(Script(lmtp=True)) as server:

        async def send() -> Latencies:
            latencies = Latencies()
            async with smtpkit.Client(server.url) as client:
                for kind in latencies.KINDS:
                    client.on(kind, latencies)
                for _ in range(3):
                    people = ["b@x.org", "c@x.org", "d@x.org"]
                    await client.send(smtpkit.Message(sender="a@example.com", to=people, text="Hi"))
            return latencies

        found = {stage: one.count for stage, one in asyncio.run(send()).stages.items() if one.count}
    assert found == {"greeting": 1, "EHLO": 1, "MAIL": 3, "RCPT": 9, "DATA": 3, "mail data": 3}


def test_what_is_left_is_forgotten() -> None:
    """Nothing is kept of mails that are settled, nor of sessions that are over."""
    latencies = Latencies()
    reply = smtpkit.ReplyReceived(reply=DONE, secured=False, at=2.0, session=1)
    latencies(reply)  # of a session that was open before anybody listened
    for number in range(1, 4):
        latencies(smtpkit.Connected(server="x", address="y", at=1.0, session=number))
        for item in (object(), object()):
            latencies(smtpkit.CommandSent(text="MAIL FROM:<a@x>", secured=False, at=1.0, session=number, item=item))
        latencies(smtpkit.Settled(outcome=smtpkit.Outcome(), at=2.0, session=number, item=item))
        assert len(latencies._waiting[number]) == 2  # the session's own, and the mail that is left
        latencies(smtpkit.SessionClosed(reason=None, at=3.0, session=number))
    assert latencies._waiting == {}
    assert all(not one.count for one in latencies.stages.values())


def _feed(figures: Figures, first: int, count: int) -> None:
    """Let so many mails happen, all to different domains, a third of them refused in different words."""
    for number in range(first, first + count):
        at, item, to = number * 0.01, object(), f"b@{number}.example"
        latencies = figures.latencies
        latencies(smtpkit.CommandSent(text="MAIL FROM:<a@x>", secured=False, at=at, session=1, item=item))
        latencies(smtpkit.ReplyReceived(reply=DONE, secured=False, at=at + 0.001, session=1, item=item))
        latencies(smtpkit.TransferEnded(done=100, took=0.0, at=at + 0.002, session=1, item=item))
        latencies(smtpkit.ReplyReceived(reply=DONE, secured=False, at=at + 0.003, session=1, item=item))
        word = f"{number:x}".translate(str.maketrans("0123456789", "ghijklmnop"))
        refused = {to: smtpkit.Reply(550, (f"5.1.1 no {word}",))}
        outcome = smtpkit.Outcome(refused=refused) if number % 3 else smtpkit.Outcome(accepted=(to,), reply=DONE)
        latencies(smtpkit.Settled(outcome=outcome, at=at + 0.003, session=1, item=item))
        figures.settle(outcome, to, number, at + 0.003)


def test_constant_memory() -> None:
    """Six thousand mails more take no more memory."""
    figures = Figures(100_000, 0.0)
    figures.latencies(smtpkit.Connected(server="x", address="y", at=0.0, session=1))
    _feed(figures, 0, 2500)
    tracemalloc.start()
    try:
        _feed(figures, 2500, 500)
        before = tracemalloc.get_traced_memory()[0]
        _feed(figures, 3000, 6000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert figures.done == 9000
    assert grown < 50_000
