"""``smtpkit queue``: mails wait in a directory, and are sent from there until a server takes them."""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from smtpkit import Attempted, Client, Listed, Outcome, Retry, SMTPError, Spool, enqueue
from smtpkit.cli.arguments import Parser, add_colour, add_connection, client_options, transcribe
from smtpkit.cli.exits import ACCEPTED, IN_DOUBT, REFUSED, SOME_REFUSED, TABLE, TRANSIENT, USAGE, code_of
from smtpkit.cli.screen import Screen, Style, escape, span, volume
from smtpkit.cli.signals import Heed

DEEDS = {
    "add": "put a mail into a directory",
    "list": "show what is in it",
    "run": "send what is due",
    "watch": "send what is due, and what comes, until told to stop",
}
HELP = f"""\
usage: smtpkit queue DEED DIR [OPTION]...

Keep mails in a directory, and send them from there until a server takes them.
Any number of processes may use it. What was refused for now is tried again,
for those who do not have it yet; what was refused for good is set aside.

{{deeds}}

  smtpkit queue DEED --help   its options

  smtpkit queue add /var/spool/letters letter.eml
  smtpkit queue run /var/spool/letters --url smtp://localhost

To have a mail tried anew that has failed, or was kept or is in doubt, rename
its file to .queued; to give one up, delete it.

{TABLE}
"""
STYLES: dict[str, Style] = {"sent": "green", "queued": "yellow", "failed": "red", "in doubt": "magenta"}
UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def main(arguments: Sequence[str]) -> int:
    """Do one deed; return the exit code."""
    deed, words = (arguments[0], arguments[1:]) if arguments else ("--help", ())
    if deed in {"-h", "--help", "help"}:
        print(HELP.format(deeds="\n".join(f"  {name:<8}{meaning}" for name, meaning in DEEDS.items())), end="")
        return ACCEPTED
    match deed:
        case "add":
            return _add(words)
        case "list":
            return _list(words)
        case "run" | "watch":
            return _work(deed, words)
    print(f"smtpkit: error: queue {escape(repr(deed))}: {', '.join(DEEDS)}; see smtpkit queue --help", file=sys.stderr)
    return USAGE


def _parser(deed: str, usage: str) -> Parser:
    parser = Parser(f"queue {deed}", f"{DEEDS[deed].capitalize()}.", usage=f"smtpkit queue {deed} DIR {usage}")
    parser.add_argument("directory", metavar="DIR", help="the directory; its owner alone may write it (mode 0700)")
    return parser


def _add(words: Sequence[str]) -> int:
    parser = _parser("add", "[FILE] [OPTION]...")
    parser.add_argument("file", metavar="FILE", nargs="?", default="-", help="the whole mail; default: standard input")
    parser.add_argument("-f", "--from", dest="sender", metavar="ADDRESS", help="from whom; default: by the header")
    parser.add_argument(
        "-t", "--to", metavar="ADDRESS", action="append", help="to whom, may be repeated; default: by the header"
    )
    chosen = parser.parse_args(words)
    message = sys.stdin.buffer if chosen.file == "-" else Path(chosen.file)
    print(_run(enqueue, chosen.directory, message, chosen.sender, chosen.to))
    return ACCEPTED


def _run(function: Any, *arguments: Any) -> Any:
    import anyio

    return anyio.run(function, *arguments)


# What is there --------------------------------------------------------------------------------------------------------


def _list(words: Sequence[str]) -> int:
    parser = _parser("list", "[OPTION]...")
    parser.add_argument("--json", action="store_true", help="as one JSON array")
    add_colour(parser)
    chosen = parser.parse_args(words)
    with Spool(chosen.directory) as spool:
        files = spool.files()
    if chosen.json:
        print(json.dumps([_as_json(file) for file in files]))
        return ACCEPTED
    screen = Screen(when=chosen.color)
    for line in table(files, screen, time.time()):
        screen.line(line)
    return ACCEPTED


def table(files: Sequence[Listed], screen: Screen, now: float) -> list[str]:
    """The files as lines, at ``now`` (seconds since 1970); what was said last, and of what file, below its row."""
    if not files:
        return ["no mails"]
    rows = [_row(file, now) for file in files]
    head = ("STATE", "AGE", "NEXT", "TRIED", "TO", "SIZE", "FROM", "MESSAGE-ID")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [screen.paint(_cut(_aligned(head, widths), screen), "bold")]
    for file, row in zip(files, rows, strict=True):
        text = _cut(_aligned(row, widths), screen)
        lines.append(screen.paint(text[: len(row[0])], STYLES.get(row[0], "plain")) + text[len(row[0]) :])
        lines += [screen.paint(_cut(f"  {escape(words)}", screen), "dim") for words in _below(file)]
    count = Counter(file.state for file in files)
    return [*lines, ", ".join(f"{number} {state}" for state, number in count.items())]


def _below(file: Listed) -> Iterator[str]:
    """What is to be known of a file besides its row: its name where a human has to look at it, and what was said."""
    if file.error is not None:
        yield str(file.error)
        return
    if file.state in {"failed", "in doubt"}:
        yield PurePath(file.path).name
    if said := (file.notes or {}).get("said"):
        yield str(said)


def _row(file: Listed, now: float) -> tuple[str, ...]:
    until = "" if file.state != "queued" or file.error else span(max((file.until or 0) - now, 0))
    return (
        file.state,
        "" if file.since is None else span(max(now - file.since, 0)),
        "now" if until == "0 s" else until,
        "" if file.notes is None else str(file.notes.get("attempts", 0)),
        str(len(file.recipients)) if file.recipients else "",
        "" if file.size is None else volume(file.size),
        escape(file.sender) or ("<>" if file.recipients else "?"),
        escape(file.message_id or ""),
    )


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """A row in columns; what is counted stands to the right."""
    cells = [
        f"{text:>{width}}" if 1 <= place <= 5 else f"{text:<{width}}" for place, (text, width) in _placed(row, widths)
    ]
    return "  ".join(cells).rstrip()


def _placed(row: Sequence[str], widths: Sequence[int]) -> Any:
    return enumerate(zip(row, widths, strict=True))


def _cut(text: str, screen: Screen) -> str:
    """The text no wider than a terminal; all of it where nobody looks."""
    return f"{text[: screen.width - 1]}…" if screen.live and len(text) > screen.width else text


def _as_json(file: Listed) -> dict[str, Any]:
    return {
        "path": file.path,
        "state": file.state,
        "since": file.since,
        "until": file.until,
        "from": file.sender,
        "to": file.recipients,
        "size": file.size,
        "message_id": file.message_id,
        "notes": file.notes,
        "error": file.error and str(file.error),
    }


# The work -------------------------------------------------------------------------------------------------------------


def _work(deed: str, words: Sequence[str]) -> int:
    parser = _parser(deed, "[OPTION]...")
    group = parser.add_argument_group("what is sent, and when again")
    if deed == "run":
        group.add_argument("--wait", action="store_true", help="go on until nothing is queued, whenever it is due")
    else:
        group.add_argument("--interval", metavar="TIME", type=_time, default=5.0, help="between two looks; default: 5")
    group.add_argument("--connections", metavar="N", type=int, help="how many mails at once; default: 8")
    group.add_argument("--keep", action="store_true", help="keep what was sent, as .sent")
    group.add_argument("--in-doubt", choices=("retry", "hold"), help="what may have been accepted; default: retry")
    group.add_argument("--attempts", metavar="N", type=int, help="how often at most; default: 50")
    group.add_argument("--maximum-age", metavar="TIME", type=_time, help="until when; default: 5d")
    group.add_argument("--first", metavar="TIME", type=_time, help="before the second attempt; default: 15m")
    group.add_argument("--grace", metavar="TIME", type=_time, default=30.0, help="to end in order; default: 30")
    add_connection(parser)
    shown = parser.add_argument_group("what is shown")
    shown.add_argument("-v", "--transcript", action="store_true", help="all that is said, on standard error")
    shown.add_argument("--json", action="store_true", help="a JSON object on a line for each attempt")
    add_colour(shown)
    chosen = parser.parse_args(words)
    policy = {name: getattr(chosen, name) for name in ("in_doubt", "attempts", "maximum_age", "first")}
    retry = Retry(**{name: value for name, value in policy.items() if value is not None})
    code: int = _run(_send, chosen, retry, Teller(chosen))
    return code


def _time(text: str) -> float:
    """Seconds, of a text such as 90, 90s, 15m, 12h or 5d."""
    unit = UNITS.get(text[-1:])
    try:
        return float(text) if unit is None else float(text[:-1]) * unit
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds, or such as 90s, 15m, 12h, 5d") from None


async def _send(chosen: argparse.Namespace, retry: Retry, teller: "Teller") -> int:
    """Work until it is done, or until a signal; return the exit code."""
    import anyio

    fault: SMTPError | None = None
    async with Client(chosen.url, **client_options(chosen, connections=chosen.connections)) as client:
        if chosen.transcript:
            transcribe(client, teller.errors)
        client.on(Attempted, teller)
        worker = client.worker(chosen.directory, retry=retry, keep=chosen.keep)
        async with anyio.create_task_group() as tasks:
            heed = Heed(lambda: worker.stop(within=chosen.grace), teller.errors)
            await tasks.start(heed, tasks.cancel_scope)
            try:
                if "interval" in chosen:
                    await worker.watch(interval=chosen.interval)
                else:
                    await worker.run(wait=chosen.wait)
                    if chosen.wait and not heed.heard:
                        teller.nothing_is_queued()
            except SMTPError as error:
                fault = error
            tasks.cancel_scope.cancel()
    teller.sum_up(fault)
    if len(heed.heard) > 1:
        return 128 + heed.heard[-1]
    if fault is not None:
        return IN_DOUBT if teller.code == IN_DOUBT else code_of(fault)
    return ACCEPTED if heed.heard else teller.code


class Teller:
    """Prints a line for each attempt, and at last how many mails came to what. ``code`` is the exit code by then."""

    def __init__(self, chosen: argparse.Namespace) -> None:
        self.errors = Screen(sys.stderr, when=chosen.color)
        self._json: bool = chosen.json
        self._screen = Screen(when=chosen.color)
        self._settled: Counter[str] = Counter()
        self._left: dict[str, str] = {}  # the mails that are not settled, by path without suffix: their states

    def __call__(self, event: Attempted) -> None:
        """Tell of an attempt."""
        name, state = PurePath(event.path).stem, "in doubt" if event.state == "sending" else event.state
        self._left.pop(name, None)
        if state in {"queued", "in doubt"}:
            self._left[name] = state
        else:
            self._settled[state] += 1
        if self._json:
            self._screen.line(json.dumps(_attempt_as_json(event, state)))
            return
        mail = event.outcome.message_id or PurePath(event.path).name
        word = self._screen.paint(f"{state:<8}", STYLES[state], "bold")
        self._screen.line(f"{word}  {escape(mail)}  {escape(_words(event, time.time()))}")

    def nothing_is_queued(self) -> None:
        """What was put off here has been settled by another worker."""
        self._left = {name: state for name, state in self._left.items() if state != "queued"}

    def sum_up(self, fault: SMTPError | None) -> None:
        """Print the sum, and what ended the work early."""
        found = self._count()
        if not self._json and (found or fault is None):
            self._screen.line(", ".join(f"{found[state]} {state}" for state in STYLES if found[state]) or "nothing due")
        if fault is not None:
            self.errors.line(f"{self.errors.paint('smtpkit: error:', 'red', 'bold')} {escape(str(fault))}")

    @property
    def code(self) -> int:
        """In doubt outweighs refused, and refused what is tried again."""
        found = self._count()
        if found["in doubt"]:
            return IN_DOUBT
        if found["failed"]:
            return SOME_REFUSED if found["sent"] else REFUSED
        return TRANSIENT if found["queued"] else ACCEPTED

    def _count(self) -> Counter[str]:
        return self._settled + Counter(self._left.values())


def _words(event: Attempted, now: float) -> str:
    """What became of it, in words."""
    outcome = event.outcome
    said = str(outcome.error) if outcome.error else "; ".join(f"<{path}> {no}" for path, no in outcome.refused.items())
    has = f"accepted for {len(outcome.accepted)}"
    if event.state == "sent":
        return f"{has}: {outcome.reply}"
    parts = [has] if outcome.accepted else []
    if event.until is not None:
        parts.append(f"attempt {event.attempts}, again in {span(max(event.until - now, 0))}")
    return f"{', '.join(parts)}: {said}" if parts else said


def _attempt_as_json(event: Attempted, state: str) -> dict[str, Any]:
    outcome: Outcome = event.outcome
    return {
        "path": event.path,
        "state": state,
        "message_id": outcome.message_id,
        "attempts": event.attempts,
        "until": event.until,
        "accepted": outcome.accepted,
        "refused": {path: str(reply) for path, reply in outcome.refused.items()},
        "in_doubt": outcome.in_doubt,
        "error": outcome.error and str(outcome.error),
    }
