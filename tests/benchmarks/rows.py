"""The table of goals: what is measured together, in turns, and what the figures of ours are to be against a peer's."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tests.benchmarks.clients import Figures, Job

Figure = str


class Goal(NamedTuple):
    """``figure`` of ``ours``, divided by that of ``peer`` where there is one, is to be at most or at least ``bound``.

    ``cpu`` is seconds a unit, ``rate`` units a second, ``octets`` octets a second of the client's processor time and
    ``wall`` by the clock; any other is a figure the client printed. Without a bound the row is there to be read.
    """

    figure: Figure
    ours: str
    peer: str | None
    sense: Literal["<=", ">="]
    bound: float | None
    what: str = ""


@dataclass(frozen=True, slots=True)
class Trial:
    """Clients that are measured in turns, each with a server of its own, and the goals this is about.

    ``count``: mails of each client, ``quick`` with ``--quick``; ``shares`` of it for slow ones. ``unit``: what one mail
    counts for. ``same_core``: client and server on one, which is quieter; else on two.
    """

    name: str
    about: str
    clients: dict[str, Job]
    goals: tuple[Goal, ...]
    server: Literal["sink", "smtp-sink", "tls", "none"] = "sink"
    server_options: dict[str, Any] = field(default_factory=dict)
    counts: tuple[int, int] = (1, 1)
    shares: dict[str, float] = field(default_factory=dict)
    sizes: tuple[int, int] = (0, 0)  # of the large mail, MiB
    rounds: tuple[int, int] = (9, 3)
    unit: int = 1
    same_core: bool = True


def _cpu(ours: str, **peers: float) -> tuple[Goal, ...]:
    return tuple(Goal("cpu", ours, _peer(peer), "<=", bound) for peer, bound in peers.items())


def _rate(ours: str, **peers: float) -> tuple[Goal, ...]:
    return tuple(Goal("rate", ours, _peer(peer), ">=", bound) for peer, bound in peers.items())


def _octets(ours: str, peer: str, bound: float) -> tuple[Goal, ...]:
    return (
        Goal("octets", ours, peer, ">=", bound, "octets/s of CPU"),
        Goal("wall", ours, peer, ">=", None, "octets/s by the clock"),
    )


def _peer(name: str) -> str:
    return name.replace("_", "-")


def _trips(milliseconds: int) -> tuple[Trial, ...]:
    """How much goes in one round trip."""
    latency = milliseconds / 1000
    server = {"latency": latency, "chunking": True, "trace": True}
    bulk = Job(window=WINDOW, latency=latency)
    return (
        Trial(
            f"trips-{milliseconds}",
            f"mails in a round trip of {milliseconds} ms, once open",
            {"Client.send": Job(latency=latency)},
            (Goal("per_trip", "Client.send", None, ">=", 0.48),),
            server_options=server,
            counts=(20, 8),
            rounds=(3, 1),
        ),
        Trial(
            f"trips-{milliseconds}-data",
            f"mails in a round trip of {milliseconds} ms, by DATA",
            {"Client.send_many": bulk._replace(chunking="never")},
            (Goal("per_trip", "Client.send_many", None, ">=", 0.93),),
            server_options=server,
            counts=(40, 16),
            rounds=(3, 1),
        ),
        Trial(
            f"trips-{milliseconds}-bdat",
            f"mails in a round trip of {milliseconds} ms, by BDAT, window {WINDOW}",
            {"Client.send_many": bulk},
            (Goal("per_trip", "Client.send_many", None, ">=", 0.88 * WINDOW),),
            server_options=server,
            counts=(10 * WINDOW, 6 * WINDOW),
            rounds=(3, 1),
        ),
    )


def _sessions(number: int, counts: tuple[int, int]) -> Trial:
    """Many at once."""
    job = Job(sessions=number)
    return Trial(
        f"sessions-{number}",
        f"{number} sessions at once, connecting included",
        dict.fromkeys(("Client.send", "aiosmtplib", "smtplib", "smtp-source", "nodemailer"), job),
        _rate("Client.send", aiosmtplib=5, smtplib=3, smtp_source=1.0, nodemailer=6),
        counts=counts,
        rounds=(5, 2),
    )


def _pool(chunking: Any, sessions: int = 20) -> Trial:
    """``send_many`` over a pool."""
    job = Job(sessions=sessions)
    how = "by DATA" if chunking == "never" else "by BDAT"
    return Trial(
        f"pool-{how.split()[1].lower()}",
        f"send_many {how} over a pool of {sessions}, the others over as many connections",
        {BULK: job._replace(window=16, chunking=chunking), "aiosmtplib": job, "smtp-source": job},
        _rate(BULK, aiosmtplib=5, smtp_source=1.0),
        server_options={"chunking": chunking != "never"},
        counts=(20_000, 4000),
        rounds=(5, 3),
        shares={"aiosmtplib": 0.25},
    )


WINDOW = 32
ONE = {name: Job() for name in ("Client.send", "smtplib", "aiosmtplib", "smtp-source")}
MANY = {name: Job() for name in ("smtplib", "aiosmtplib", "smtp-source")}
SHARES = {"aiosmtplib": 0.5, "smtpproto": 0.25}
BULK = "Client.send_many"

TRIALS: tuple[Trial, ...] = (
    Trial(
        "one",
        "4 KiB, one after the other on one session, PIPELINING",
        ONE | {"smtpproto": Job()},
        _cpu("Client.send", aiosmtplib=0.15, smtplib=0.60, smtp_source=1.2)
        + _rate("Client.send", aiosmtplib=5, smtplib=1.6, smtp_source=1.0)
        + (Goal("cpu", "Client.send", "smtpproto", "<=", None),),
        counts=(2000, 500),
        shares=SHARES,
    ),
    Trial(
        "one-postfix",
        "the same against Postfix's smtp-sink",
        ONE,
        _cpu("Client.send", aiosmtplib=0.15, smtplib=0.60, smtp_source=1.2),
        server="smtp-sink",
        counts=(2000, 500),
        rounds=(9, 2),
        shares=SHARES,
    ),
    Trial(
        "sync",
        "SyncClient, the same, PIPELINING",
        {"SyncClient.send": Job(), "smtplib": Job()},
        _rate("SyncClient.send", smtplib=1.9),
        counts=(2000, 500),
    ),
    Trial(
        "sync-bdat",
        'SyncClient, the same, chunking="always"',
        {"SyncClient.send": Job(chunking="always"), "smtplib": Job()},
        _rate("SyncClient.send", smtplib=3.2),
        server_options={"chunking": True},
        counts=(2000, 500),
    ),
    Trial(
        "many",
        "send_many on one session, 4 KiB, no CHUNKING",
        {BULK: Job(window=WINDOW), **MANY},
        _cpu(BULK, aiosmtplib=0.09, smtplib=0.37, smtp_source=0.7),
        counts=(2000, 500),
        shares=SHARES,
    ),
    Trial(
        "many-bdat",
        f"send_many on one session, 4 KiB, CHUNKING, window {WINDOW}",
        {BULK: Job(window=WINDOW), **MANY},
        _cpu(BULK, aiosmtplib=0.03, smtplib=0.13, smtp_source=0.26)
        + _rate(BULK, aiosmtplib=30, smtplib=10, smtp_source=6),
        server_options={"chunking": True},
        counts=(2000, 500),
        shares=SHARES,
    ),
    *_trips(20),
    *_trips(50),
    *_trips(100),
    Trial(
        "recipients",
        "100 recipients in one mail, CPU a recipient",
        {name: Job(recipients=100) for name in ("Client.send", "smtplib", "aiosmtplib")},
        _cpu("Client.send", smtplib=0.12, aiosmtplib=0.05),
        counts=(50, 15),
        shares=SHARES,
        unit=100,
    ),
    _sessions(100, (5000, 1000)),
    _sessions(1000, (10000, 1000)),
    _pool("never"),
    _pool("auto"),
    Trial(
        "idle",
        "memory of an open session where nothing is sent, KiB",
        {"idle sessions": Job(sessions=1000)},
        (Goal("kib", "idle sessions", None, "<=", 8),),
        rounds=(3, 1),
    ),
    Trial(
        "data",
        "a large mail by DATA, base64: octets a second of CPU, growth of memory",
        {name: Job(path="large") for name in ("an iterable", "a path", "sendall", "curl", "smtplib", "aiosmtplib")},
        (
            Goal("octets", "an iterable", "sendall", ">=", 0.30, "an iterable"),
            Goal("octets", "an iterable", "curl", ">=", 1.0, "an iterable"),
            Goal("octets", "an iterable", "smtplib", ">=", 5, "an iterable"),
            Goal("octets", "an iterable", "aiosmtplib", ">=", 18, "an iterable"),
            Goal("octets", "a path", "sendall", ">=", None, "a path"),
            Goal("wall", "an iterable", "sendall", ">=", None, "an iterable, by the clock,"),
            Goal("growth", "an iterable", None, "<=", 2048, "an iterable: KiB more at the peak"),
            Goal("growth", "a path", None, "<=", 2048, "a path: KiB more at the peak"),
        ),
        sizes=(200, 32),
        rounds=(5, 2),
        same_core=False,
    ),
    Trial(
        "data-safe",
        "the same, known to be safe on the wire",
        {name: Job(path="large") for name in ("wire-safe", "sendall")},
        _octets("wire-safe", "sendall", 0.85),
        sizes=(200, 100),
        rounds=(9, 3),
        same_core=False,
    ),
    Trial(
        "bdat-safe",
        "the same, by BDAT",
        {"wire-safe": Job(path="large", chunking="always"), "sendall, BDAT": Job(path="large")},
        _octets("wire-safe", "sendall, BDAT", 0.9),
        server_options={"chunking": True},
        sizes=(200, 100),
        rounds=(9, 3),
        same_core=False,
    ),
    Trial(
        "tls",
        "the same, by DATA in TLS",
        {name: Job(path="large") for name in ("in TLS", "SSLSocket")},
        _octets("in TLS", "SSLSocket", 0.85),
        server="tls",
        sizes=(200, 100),
        rounds=(9, 3),
        same_core=False,
    ),
    *(
        Trial(
            f"rate-{rate // 1000}k",
            f"rate={rate:,} octets a second, as the server sees it",
            {"at a rate": Job(rate=rate, size=int(2.5 * rate))},
            (
                Goal("error", "at a rate", None, "<=", 0.5, "error of the mean, per cent"),
                Goal("worst", "at a rate", None, "<=", 1.03, "worst second, over the rate"),
            ),
            server_options={"trace": True},
            rounds=(3, 1),
            same_core=False,
        )
        for rate in (100_000, 1_000_000, 10_000_000)
    ),
    Trial(
        "building",
        "to octets, against EmailMessage and base64.encodebytes",
        {"building": Job()},
        tuple(
            Goal(what, "building", None, ">=", bound, what)
            for what, bound in (
                ("text of 4 KB", 20),
                ("text, HTML, 6 kB attached", 25),
                ("base64 of 14.3 MiB, by pieces", 2.5),
            )
        ),
        server="none",
        rounds=(3, 1),
    ),
    Trial(
        "import",
        "import, in an interpreter of its own: milliseconds of CPU",
        {name: Job() for name in ("import smtpkit", "import Client", "import smtplib")},
        (
            Goal("ms", "import smtpkit", None, "<=", 100, "import smtpkit"),
            Goal("ms", "import smtpkit", "import smtplib", "<=", 1.5),
            Goal("ms", "import Client", "import smtplib", "<=", None),
        ),
        server="none",
    ),
)


def value(figure: Figure, figures: Figures) -> float:
    """A figure from those of one run, whose ``units`` and ``octets`` the runner has added."""
    match figure:
        case "cpu":
            return figures["cpu"] / figures["units"]
        case "rate":
            return figures["units"] / figures["seconds"]
        case "octets":
            return figures["octets"] / figures["cpu"]
        case "wall":
            return figures["octets"] / figures["seconds"]
    return figures[figure]
