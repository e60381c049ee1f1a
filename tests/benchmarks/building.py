"""Building a mail: ``smtpkit.Message`` to octets against the standard library's ``EmailMessage``, the same content.

``python -m tests.benchmarks.building`` prints the rows: all in one process, in turns, so that what else the machine
does weighs on both. The standard library's mails get a Date and a Message-ID too: ours have them always.
"""

import base64
import random
import statistics
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import make_msgid
from typing import Any, NamedTuple

from smtpkit import Attachment, Message
from smtpkit.message.message import prepare
from smtpkit.message.mime import PIECE, base64_lines

ROUNDS = 15
SECONDS = 0.02  # of each side of a round
SENDER, TO, SUBJECT = "Ann <ann@example.com>", "bob@example.com", "The report for November"


class Row(NamedTuple):
    """One comparison: microseconds of either side (medians), and the median of the ratios within a round."""

    what: str
    ours: float
    theirs: float
    ratio: float


def _words(count: int, seed: int) -> str:
    """Text of so many lines of about 70 characters."""
    chance = random.Random(seed)
    lines = ("".join(chance.choices("etaoinshrdlu ,.", k=70)).strip(" .,") for _ in range(count))
    return "".join(f"{line}\n" for line in lines)


TEXT = _words(56, 1)
HTML = "<html><body>\n" + _words(56, 2).replace("\n", "<br>\n") + "</body></html>\n"
OTHER = TEXT.replace("e", "é")
OCTETS = random.Random(3).randbytes(6000)
LARGE = random.Random(4).randbytes(PIECE * 256)


def _ours(**content: Any) -> bytes:
    return Message(sender=SENDER, to=TO, subject=SUBJECT, **content).as_bytes()


def _theirs(text: str, html: str | None = None, octets: bytes | None = None) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = SENDER, TO, SUBJECT
    message["Date"], message["Message-ID"] = datetime.now(UTC), make_msgid(domain="example.com")
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    if octets is not None:
        message.add_attachment(octets, "application", "pdf", filename="report.pdf")
    return message.as_bytes()


def _prepared() -> None:
    """What a client does: the envelope too."""

    async def inline(function: Callable[[], Any]) -> Any:
        return function()

    coroutine = prepare(Message(sender=SENDER, to=TO, subject=SUBJECT, text=TEXT), run=inline)
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")


def _lines() -> None:
    for at in range(0, len(LARGE), PIECE):
        base64_lines(LARGE[at : at + PIECE])


PAIRS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "text of 4 KB": (lambda: _ours(text=TEXT), lambda: _theirs(TEXT)),
    "the same, with its envelope": (_prepared, lambda: _theirs(TEXT)),
    "text of 4 KB, not ASCII": (lambda: _ours(text=OTHER), lambda: _theirs(OTHER)),
    "text, HTML, 6 kB attached": (
        lambda: _ours(text=TEXT, html=HTML, attachments=[Attachment(OCTETS, "report.pdf")]),
        lambda: _theirs(TEXT, HTML, OCTETS),
    ),
    "base64 of 14.3 MiB, by pieces": (_lines, lambda: base64.encodebytes(LARGE)),
}


def rows() -> Iterator[Row]:
    """The rows, each measured as it is asked for."""
    for what, sides in PAIRS.items():
        counts = [max(1, round(SECONDS / max(_seconds(side, 3), 1e-7))) for side in sides]
        rounds = [[_seconds(side, count) for side, count in zip(sides, counts, strict=True)] for _ in range(ROUNDS)]
        ours, theirs = (statistics.median(column) * 1e6 for column in zip(*rounds, strict=True))
        yield Row(what, ours, theirs, statistics.median(other / own for own, other in rounds))


def _seconds(side: Callable[[], Any], count: int) -> float:
    """Seconds of the processor for one call."""
    began = time.process_time()
    for _ in range(count):
        side()
    return (time.process_time() - began) / count


if __name__ == "__main__":
    print(f"{'':32}{'smtpkit, µs':>14}{'stdlib, µs':>14}{'ratio':>8}")
    for row in rows():
        print(f"{row.what:32}{row.ours:14.1f}{row.theirs:14.1f}{row.ratio:8.1f}")
