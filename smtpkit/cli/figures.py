"""What a bulk job has come to, in figures: counts, latencies, throughput; in constant memory.

Rules: fed by the public events and outcomes alone. A million mails take no more room than a thousand: latencies fall
into logarithmic classes, and time into spans that double.
"""

from collections import Counter
from math import log10
from typing import Literal, NamedTuple

from smtpkit import (
    CommandSent,
    Connected,
    Counts,
    DataRefused,
    Event,
    InvalidMail,
    NotSupported,
    Outcome,
    RecipientsRefused,
    Refused,
    ReplyReceived,
    Secured,
    SenderRefused,
    SessionClosed,
    Settled,
    SMTPError,
    TransferEnded,
)

Fate = Literal["accepted", "refused", "deferred", "in doubt", "invalid"]

OTHERS = "…"  # replies that a ledger counts as one, where there are too many
_VERDICTS = (SenderRefused, RecipientsRefused, DataRefused)

FATES: tuple[Fate, ...] = ("accepted", "refused", "deferred", "in doubt", "invalid")


def fate(outcome: Outcome) -> Fate:
    """What became of a mail for one recipient."""
    if outcome.in_doubt:
        return "in doubt"
    if outcome.accepted:
        return "accepted"
    if isinstance(outcome.error, InvalidMail):
        return "invalid"
    if outcome.refused:
        return "deferred" if all(reply.transient for reply in outcome.refused.values()) else "refused"
    error = outcome.error
    return "refused" if isinstance(error, _VERDICTS) and not error.transient else "deferred"


def about_the_mail(error: SMTPError) -> bool:
    """Is it the fate of this mail, and not the end of a session or the lack of one?"""
    return isinstance(error, (*_VERDICTS, NotSupported, InvalidMail))


def words(outcome: Outcome) -> str:
    """Why it was not accepted: the server's words, or those of the error."""
    if outcome.refused:
        return str(next(iter(outcome.refused.values())))
    return str(outcome.error.reply if isinstance(outcome.error, Refused) else outcome.error or "")


class Histogram:
    """Durations in seconds, counted in ten classes to the power of ten, from 10 µs to 10,000 s."""

    FIRST, LAST, EACH = -5, 4, 10

    def __init__(self) -> None:
        self.counts = [0] * ((self.LAST - self.FIRST) * self.EACH)
        self.count = 0
        self.total = self.most = 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        place = int((log10(seconds) - self.FIRST) * self.EACH) if seconds > 1e-5 else 0
        self.counts[min(place, len(self.counts) - 1)] += 1
        self.count += 1
        self.total += seconds
        self.most = max(self.most, seconds)

    def quantile(self, share: float) -> float:
        """The duration that so large a share stays below, to within an eighth."""
        left = share * self.count
        for place, count in enumerate(self.counts):
            if count and left <= count:
                return min(self.edge(place + left / count), self.most)
            left -= count
        return self.most

    def edge(self, place: float) -> float:
        """Where a class begins, in seconds."""
        return float(10 ** (self.FIRST + place / self.EACH))


class Timeline:
    """How many of each fate came in each span of time; when there are too many spans each becomes twice as long."""

    MOST = 240

    def __init__(self, width: float = 0.05) -> None:
        self.width = width  # seconds
        self.spans: list[Counter[Fate]] = []

    def add(self, at: float, what: Fate) -> None:
        """Count one, so many seconds after the beginning."""
        while (place := int(at / self.width)) >= self.MOST:
            self.width *= 2
            pairs = [*self.spans, Counter()] if len(self.spans) % 2 else self.spans
            self.spans = [pairs[first] + pairs[first + 1] for first in range(0, len(pairs), 2)]
        while len(self.spans) <= place:
            self.spans.append(Counter())
        self.spans[place][what] += 1


class Failure(NamedTuple):
    """A mail that was not accepted: for whom, the line of its row, what came of it, and why."""

    recipient: str
    line: int
    what: Fate
    why: str


STAGES = {
    "greeting": "from the connection to the greeting",
    "EHLO": "",
    "STARTTLS": "",
    "TLS": "the handshake",
    "AUTH": "each exchange of the login",
    "MAIL": "the sender",
    "RCPT": "the recipient",
    "DATA": "until the server says go on",
    "mail data": "from its last octet to the reply: the verdict",
}
_ALIAS = {"LHLO": "EHLO", "HELO": "EHLO", "***": "AUTH"}


class Latencies:
    """Hears the events of a client and measures how long each reply took to come. ``stages`` holds what was found.

    A reply belongs to the oldest command of its mail that has none; what a session or a mail still waits for when it is
    over is forgotten.
    """

    KINDS: tuple[type[Event], ...] = (
        *(CommandSent, ReplyReceived, TransferEnded, Settled, Connected, Secured, SessionClosed),
    )

    def __init__(self) -> None:
        self.stages = {stage: Histogram() for stage in STAGES}
        self.sessions = 0  # that are open
        self.opened = 0
        self.octets = 0  # of mail data
        self._waiting: dict[int, dict[int, list[tuple[str, float]]]] = {}  # by session and by mail: stage, since when

    def __call__(self, event: Event) -> None:
        """Hear one event."""
        match event:
            case CommandSent(text=text):
                verb = text.partition(" ")[0]
                if verb != "BDAT":  # its reply is that to the mail data
                    self._wait(event, _ALIAS.get(verb, verb))
            case ReplyReceived():
                self._heard(event)
            case TransferEnded(done=done):
                self.octets += done
                self._wait(event, "mail data")
            case Settled(item=item):
                self._waiting.get(event.session, {}).pop(id(item), None)
            case Connected():
                self._waiting[event.session] = {}
                self.sessions, self.opened = len(self._waiting), self.opened + 1
                self._wait(event, "greeting")
            case Secured(at=at):
                self._secured(at, self._waiting.get(event.session, {}).get(id(event.item), []))
            case SessionClosed():
                self._waiting.pop(event.session, None)
                self.sessions = len(self._waiting)

    def _wait(self, event: Event, stage: str) -> None:
        mails = self._waiting.get(event.session)
        if mails is not None:
            mails.setdefault(id(event.item), []).append((stage, event.at))

    def _heard(self, event: Event) -> None:
        waiting = self._waiting.get(event.session, {}).get(id(event.item))
        if waiting:
            stage, since = waiting.pop(0)
            if stage in self.stages:
                self.stages[stage].add(event.at - since)
            if stage == "STARTTLS":
                waiting.append(("TLS", event.at))

    def _secured(self, at: float, waiting: list[tuple[str, float]]) -> None:
        """TLS has begun, after STARTTLS or, implicit, before the greeting, which is waited for from here on."""
        for stage, since in waiting[:1]:
            self.stages["TLS"].add(at - since)
            waiting[:1] = [(stage, at)] if stage == "greeting" else []


class Figures:
    """What progress and report show of a run: ``total`` mails there are, of which ``before`` were settled earlier."""

    KEPT = 300  # failures

    def __init__(self, total: int, begun: float) -> None:
        self.total = total
        self.begun = begun  # seconds on the clock of ``at``
        self.before = 0
        self.counts: Counter[Fate] = Counter()
        self.latencies = Latencies()
        self.timeline = Timeline()
        self.failures: list[Failure] = []
        self.latest: Failure | None = None
        self.failed = 0

    def settle(self, outcome: Outcome, recipient: str, line: int, at: float) -> Fate:
        """Count a mail."""
        what = fate(outcome)
        self.counts[what] += 1
        self.timeline.add(at - self.begun, what)
        if what != "accepted":
            self.failed += 1
            self.latest = Failure(recipient, line, what, words(outcome))
            if len(self.failures) < self.KEPT:
                self.failures.append(self.latest)
        return what

    @property
    def done(self) -> int:
        """How many are settled, now and before."""
        return self.before + self.counts.total()


class Sum(NamedTuple):
    """What came of all mails, by all runs of a ledger; domains and replies the most frequent first."""

    fates: Counter[Fate]
    domains: list[tuple[str, Counter[Fate]]]
    replies: list[tuple[str, Fate | None, int]]  # None: those that the ledger does not tell apart


def sum_up(counts: Counts, unmade: int) -> Sum:
    """The sum of what a ledger counts; ``unmade`` mails could not be made of their rows, and stand in no ledger."""
    domains = [(name, _fates(each)) for name, each in counts.domains.items() if name and _fates(each)]
    fates = sum((each for _, each in domains), Counter[Fate]())
    unread = counts.domains.get("")  # mails that the client could not read
    fates["invalid"] = unmade + (unread.total if unread else 0)
    domains.sort(key=lambda row: (-row[1].total(), row[0]))
    replies = [(name, _came_to(name), count) for name, count in counts.replies.items()]
    return Sum(fates, domains, sorted(replies, key=lambda row: (-row[2], row[0])))


def _fates(counts: Counts) -> Counter[Fate]:
    found = {"accepted": counts.accepted, "refused": counts.refused, "deferred": counts.deferred}
    return +Counter[Fate]({**found, "in doubt": counts.in_doubt})  # type: ignore[dict-item]


def _came_to(reply: str) -> Fate | None:
    """What a reply or an error of a ledger means for the mail."""
    if reply == OTHERS:
        return None
    by_digit: dict[str, Fate] = {"2": "accepted", "4": "deferred", "5": "refused"}
    by_error: dict[str, Fate] = {"InDoubt": "in doubt", "InvalidMail": "invalid"}
    return by_digit.get(reply[:1]) or by_error.get(reply.partition(":")[0], "deferred")
