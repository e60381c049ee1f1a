"""``smtpkit send``: one mail, made from options or read as it is, and what became of it."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smtpkit import (
    DSN,
    Event,
    Message,
    Outcome,
    Reply,
    Settled,
    SMTPError,
    TransferEnded,
    TransferProgress,
    TransferStarted,
)
from smtpkit.cli.arguments import Parser, add_connection, add_output, make_client, transcribe
from smtpkit.cli.exits import INTERRUPTED, code_of
from smtpkit.cli.screen import Screen, Style, escape, volume

if TYPE_CHECKING:
    from typing import BinaryIO

    from smtpkit import SyncClient

PATIENCE = 0.3  # seconds of a transfer before its progress is worth showing
FRAME = 0.08  # seconds between two redrawings


def main(arguments: Sequence[str]) -> int:
    """Send one mail; print what became of it; return the exit code."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    mail = _mail(chosen, parser)
    errors = Screen(sys.stderr, when=chosen.color)
    settled: list[Outcome] = []
    with make_client(chosen, rate=chosen.rate) as client:
        if chosen.transcript:
            transcribe(client, errors)
        if errors.live:
            client.on(Event, Progress(errors))
        client.on(Settled, lambda event: settled.append(event.outcome))
        try:
            outcome = _send(client, mail, chosen)
        except KeyboardInterrupt:
            errors.erase()
            if settled and settled[-1].in_doubt:
                errors.line("smtpkit: interrupted before the final reply: the mail may have been accepted")
            return INTERRUPTED
    errors.erase()
    _tell(outcome, chosen, errors)
    return code_of(outcome)


def _send(client: "SyncClient", mail: "Message | Path | BinaryIO", chosen: argparse.Namespace) -> Outcome:
    """The outcome, whether it is good or not. Raises the error of a mail that has none."""
    whole = isinstance(mail, Message)  # else the recipients given here are all that the envelope has
    people = None if whole else [*chosen.to, *chosen.cc, *chosen.bcc] or None
    dsn = DSN(notify=tuple(chosen.dsn)) if chosen.dsn else None
    try:
        return client.send(mail, None if whole else chosen.sender, people, dsn=dsn)
    except SMTPError as error:
        return error.outcome or Outcome(error=error)


def _parser() -> Parser:
    parser = Parser(
        "send",
        "Send one mail, and say for each recipient what became of it.",
        usage="smtpkit send -f ADDRESS -t ADDRESS [OPTION]...\n       smtpkit send --data @FILE [OPTION]...",
    )
    people = parser.add_argument_group("for whom")
    people.add_argument("-f", "--from", dest="sender", metavar="ADDRESS", help="from whom it is")
    for flags, meaning in ((("-t", "--to"), "to whom"), (("--cc",), "a copy"), (("--bcc",), "a copy nobody knows of")):
        people.add_argument(*flags, metavar="ADDRESS", action="append", default=[], help=f"{meaning}; may be repeated")
    people.add_argument(
        "--dsn",
        metavar="WHEN",
        type=_events,
        help="ask for notifications (RFC 3461): success,failure,delay, or never",
    )
    content = parser.add_argument_group("what is in it")
    content.add_argument("--subject", help="the subject")
    content.add_argument("-b", "--body", metavar="TEXT", help="the text; - reads it from standard input")
    content.add_argument("--html", metavar="HTML", help="the text as HTML; @FILE reads it from a file")
    content.add_argument("-a", "--attach", metavar="FILE", action="append", default=[], type=Path, help="a file")
    content.add_argument("--header", metavar="'NAME: VALUE'", action="append", default=[], type=_field, help="a field")
    content.add_argument("--data", metavar="@FILE", help="or the whole mail as it is; - reads it from standard input")
    add_connection(parser)
    add_output(parser).add_argument(
        "--rate", metavar="OCTETS", type=_rate, help="octets per second at most, also 100k or 1.5M"
    )
    return parser


def _mail(chosen: argparse.Namespace, parser: Parser) -> "Message | Path | BinaryIO":
    """The mail that the options describe."""
    if chosen.data is not None:
        own = ("subject", "body", "html", "attach", "header")
        if double := [f"--{name}" for name in own if getattr(chosen, name)]:
            parser.error(f"--data is the whole mail, so {', '.join(double)} cannot be added to it")
        if chosen.data in {"-", "@-"}:
            return sys.stdin.buffer
        if not chosen.data.startswith("@"):
            parser.error(f"--data wants @FILE, such as @{chosen.data or 'mail.eml'}, or - for standard input")
        return Path(chosen.data[1:])
    if not chosen.sender:
        parser.error("--from is missing")
    if not (chosen.to or chosen.cc or chosen.bcc):
        parser.error("--to is missing")
    fields: dict[str, str] = {}
    for name, value in chosen.header:
        if name.lower() in map(str.lower, fields):
            parser.error(f"--header {name} is given twice")
        fields[name] = value
    html: str | None = chosen.html
    if html is not None and html.startswith("@"):
        html = Path(html[1:]).read_text(encoding="utf-8")
    return Message(
        subject=chosen.subject or "",
        sender=chosen.sender,
        to=chosen.to,
        cc=chosen.cc,
        bcc=chosen.bcc,
        text=sys.stdin.read() if chosen.body == "-" else chosen.body or "",
        html=html,
        attachments=chosen.attach,
        headers=fields,
    )


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


def _events(text: str) -> list[str]:
    events = text.upper().split(",")
    if not set(events) <= {"SUCCESS", "FAILURE", "DELAY"} and events != ["NEVER"]:
        raise argparse.ArgumentTypeError(f"{text!r}: any of success,failure,delay, or never alone")
    return events


def _rate(text: str) -> float:
    factor = {"k": 1e3, "m": 1e6, "g": 1e9}.get(text[-1:].lower())
    try:
        return float(text) if factor is None else float(text[:-1]) * factor
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, nor like 100k or 1.5M") from None


class Progress:
    """Redraws one line while mail data goes out, once that takes long enough to be worth a look."""

    def __init__(self, screen: Screen, *, patience: float = PATIENCE) -> None:
        self._screen = screen
        self._patience = patience
        self._begun = self._drawn = 0.0
        self._last: TransferProgress | None = None

    def __call__(self, event: Event) -> None:
        """Show what there is to show of it."""
        match event:
            case TransferStarted(at=at):
                self._begun = self._drawn = at
                self._last = None
            case TransferProgress(at=at):
                self._last = event
                if at - self._begun >= self._patience and at - self._drawn >= FRAME:
                    self._drawn = at
                    self._screen.redraw(progress_line(self._screen, event))
            case TransferEnded() if self._last is not None and self._drawn > self._begun:
                self._screen.redraw(progress_line(self._screen, self._last, "awaiting reply"))
            case Settled():
                self._screen.erase()


def progress_line(screen: Screen, event: TransferProgress, end: str | None = None) -> str:
    """A transfer in one line: bar and percent where the size is known, octets, rate, and what is left or ``end``."""
    rate = f"{volume(event.rate)}/s"
    if not event.size:
        return f"  {volume(event.done)}  {rate}"
    share = min(event.done / event.size, 1)
    left = (event.size - event.done) / event.rate if event.rate else 0
    words = f"{volume(event.done)} of {volume(event.size)}  {rate:>10}  {end or f'{left:.1f} s left'}"
    bar = screen.bar(share, progress_width(screen))
    return f"  {bar} {screen.paint(f'{share:4.0%}', 'bold')}  {words}"


def progress_width(screen: Screen) -> int:
    """How wide the bar is, beside what is said of it."""
    return min(max(screen.width - 60, 10), 40)


def _tell(outcome: Outcome, chosen: argparse.Namespace, errors: Screen) -> None:
    if chosen.json:
        print(json.dumps(_as_json(outcome)))
    else:
        screen = Screen(when=chosen.color)
        for path in outcome.accepted:
            _say(screen, "accepted", path, "green")
        for path, reply in outcome.refused.items():
            _say(screen, "refused", path, "red", str(reply))
        for path in outcome.in_doubt:
            _say(screen, "in doubt", path, "yellow")
        if outcome.reply is not None and outcome.accepted:
            screen.line(screen.paint(f"          {escape(str(outcome.reply))}", "dim"))
    if outcome.error is not None:
        errors.line(f"{errors.paint('smtpkit: error:', 'red', 'bold')} {escape(str(outcome.error))}")


def _say(screen: Screen, word: str, path: str, style: Style, reply: str = "") -> None:
    text = f"  {screen.paint(escape(reply), style)}" if reply else ""
    screen.line(f"{screen.paint(f'{word:<8}', style, 'bold')}  {escape(path)}{text}")


def _as_json(outcome: Outcome) -> dict[str, Any]:
    error = outcome.error
    return {
        "accepted": outcome.accepted,
        "refused": {path: _reply(reply) for path, reply in outcome.refused.items()},
        "in_doubt": outcome.in_doubt,
        "reply": _reply(outcome.reply),
        "replies": {path: _reply(reply) for path, reply in outcome.replies.items()},
        "message_id": outcome.message_id,
        "error": error and {"kind": type(error).__name__, "text": str(error), "transient": error.transient},
        "exit_code": code_of(outcome),
    }


def _reply(reply: Reply | None) -> dict[str, Any] | None:
    if reply is None:
        return None
    return {"code": reply.code, "enhanced": reply.enhanced and str(reply.enhanced), "lines": reply.lines}
