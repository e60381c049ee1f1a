"""``smtpkit bulk``: a template and the rows of a file become mails, which are sent and reported on.

Rules: all rows are read once before the first mail, so a row that lacks a field stops the job before it begins; a
value that cannot be sent costs its own row only. They are read again as the mails go out: a million take no more memory
than a few.
"""

import argparse
import csv
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smtpkit import Client, InvalidMail, Mail, Outcome, ProtocolViolation, Run, RunOutcomes, SMTPError, UsageError
from smtpkit.cli.arguments import Parser, add_connection, add_output, client_options, transcribe
from smtpkit.cli.exits import ACCEPTED, IN_DOUBT, INVALID, REFUSED, SOME_REFUSED, TRANSIENT, code_of
from smtpkit.cli.figures import FATES, Failure, Figures, Sum, about_the_mail, sum_up
from smtpkit.cli.merge import Template
from smtpkit.cli.progress import ALWAYS, STYLES, Line, Log, progress
from smtpkit.cli.report import Job, page
from smtpkit.cli.rows import Row, Rows, recipient_column, survey
from smtpkit.cli.screen import Screen, escape, span
from smtpkit.cli.signals import Heed

if TYPE_CHECKING:
    import anyio

FRAME = 0.1  # seconds between two redrawings
SEVERAL = 3  # mails in a row that found no session, before it is waited for one
LONGEST_WAIT = 60.0  # seconds between two attempts to find one
SHOWN = 10  # replies in the summary, and rows that cannot be sent


def main(arguments: Sequence[str]) -> int:
    """Send a mail for each row; print what became of them; return the exit code."""
    chosen = _parser().parse_args(arguments)
    rows = Rows(chosen.rows)
    column = chosen.to_column or recipient_column(rows)
    template = Template(chosen.template, sender=chosen.sender, column=column, html=chosen.html, attach=chosen.attach)
    total = survey(rows, template.fields)
    if chosen.dry_run:
        return _rehearse(chosen, template, rows)
    chosen.ledger = chosen.ledger or Path(f"{chosen.rows}.run")
    if chosen.ledger.exists() and not chosen.resume:
        raise UsageError(
            f"{chosen.ledger}: the ledger of an earlier run; --resume goes on with it and sends nothing twice, and "
            "without that file everybody would be sent to again"
        )
    import anyio

    with ExitStack() as files:
        code: int = anyio.run(Bulk(chosen, template, rows, total, files).run)
    return code


def _parser() -> Parser:
    parser = Parser(
        "bulk",
        "Send a mail for each row of a file, and say what became of them.\n\n"
        "The template holds header lines, an empty line, and the text. {name} stands for what a row has\n"
        "in its column of that name; {{ and }} for braces. A template named *.j2 is one of jinja2.",
        usage="smtpkit bulk ROWS -f ADDRESS --template FILE [OPTION]...",
    )
    parser.add_argument("rows", metavar="ROWS", type=Path, help="CSV with a line of names, or .jsonl: objects by line")
    content = parser.add_argument_group("what is sent")
    content.add_argument("-f", "--from", dest="sender", metavar="ADDRESS", required=True, help="from whom it is")
    content.add_argument("--template", metavar="FILE", type=Path, required=True, help="header lines and the text")
    content.add_argument("--html", metavar="FILE", type=Path, help="the text as HTML; values are escaped in it")
    content.add_argument("-a", "--attach", metavar="FILE", action="append", default=[], type=Path, help="a file")
    content.add_argument("--to-column", metavar="NAME", help="where the recipient stands; default: email, else to")
    content.add_argument("--dry-run", action="store_true", help="make all mails, show the first one, send nothing")
    again = parser.add_argument_group("what was sent already")
    again.add_argument("--ledger", metavar="FILE", type=Path, help="where that is written down; default: ROWS.run")
    again.add_argument("--resume", action="store_true", help="go on where a run ended; begin one where there is none")
    again.add_argument("--in-doubt", choices=("hold", "retry"), default="hold", help="send it again? default: hold")
    speed = parser.add_argument_group("how fast")
    speed.add_argument("--connections", metavar="N", type=int, help="how many sessions at most; default: 8")
    speed.add_argument("--rate", metavar="N", type=float, help="mails per second at most")
    speed.add_argument("--domain-rate", metavar="N", type=float, help="mails per second to one domain at most")
    speed.add_argument(
        "--patience", metavar="SECONDS", type=float, default=600.0, help="for a server that went away; default: 600"
    )
    add_connection(parser)
    shown = add_output(parser)
    shown.add_argument("--report", metavar="FILE", type=Path, help="write an HTML page about it all")
    shown.add_argument("--failed", metavar="FILE", type=Path, help="write who was not accepted, and why, as CSV")
    return parser


# Without sending ------------------------------------------------------------------------------------------------------


def _rehearse(chosen: argparse.Namespace, template: Template, rows: Rows) -> int:
    """Make all mails; show the first, and which rows cannot be sent."""
    screen, errors = Screen(when=chosen.color), Screen(sys.stderr, when=chosen.color)
    good, bad = 0, []
    for row in rows:
        try:
            mail = template.mail(row.values)
        except InvalidMail as error:
            bad.append((row, str(error)))
            continue
        good += 1
        if good == 1 and not chosen.json:
            for line in mail.message.as_bytes().decode("ascii", "replace").splitlines():
                screen.line(screen.paint(escape(line), "dim"))
            screen.line()
    code = INVALID if bad else ACCEPTED
    if chosen.json:
        print(json.dumps({"mails": good, "invalid": len(bad), "exit_code": code}))
        return code
    for row, why in bad[:SHOWN]:
        errors.line(f"{errors.paint('invalid', 'red', 'bold')}  {escape(f'{rows.where(row.line)}: {why}')}")
    if len(bad) > SHOWN:
        errors.line(f"and {len(bad) - SHOWN:,} more rows")
    screen.line(f"{good:,} mails, {len(bad):,} rows that cannot be sent; nothing was sent")
    return code


# Sending --------------------------------------------------------------------------------------------------------------


class Letter(Mail):
    """A mail, and the row it is made of."""

    row: Row


def _key(letter: Letter) -> str:
    return f"row {letter.row.number}"


class Bulk:
    """A job while it runs."""

    def __init__(
        self, chosen: argparse.Namespace, template: Template, rows: Rows, total: int, files: ExitStack
    ) -> None:
        self._chosen = chosen
        self._template = template
        self._rows = rows
        self._errors = Screen(sys.stderr, when=chosen.color)
        self._figures = Figures(total, time.monotonic())
        self._started = time.time()
        self._fault: SMTPError | None = None
        self._lost = 0  # mails in a row that found no session
        self._since = 0.0  # when the first of them did not
        self._hopeless = False  # it makes no sense to go on, for the fault
        self._unmade = 0
        self._outcomes: RunOutcomes | None = None
        self._heed = Heed(self._stop, self._errors)
        if chosen.report:
            chosen.report.touch()  # what cannot be written is known before anything is sent
        self._failed = None
        if chosen.failed:
            mode = "a" if chosen.resume else "w"
            file = files.enter_context(chosen.failed.open(mode, encoding="utf-8", newline=""))
            self._failed = csv.writer(file)
            if not file.tell():
                self._failed.writerow(Failure._fields)

    async def run(self) -> int:
        """Send all; return the exit code."""
        import anyio

        chosen, errors, figures = self._chosen, self._errors, self._figures
        self._stopping = anyio.Event()
        speed = {"connections": chosen.connections, "mail_rate": chosen.rate, "domain_rate": chosen.domain_rate}
        async with Client(chosen.url, **client_options(chosen, **speed)) as client:
            for kind in figures.latencies.KINDS:
                client.on(kind, figures.latencies)
            if chosen.transcript:
                transcribe(client, errors)
            title = f"{self._rows.path.name} to {client.options.shown}"
            run = Run(chosen.ledger, client, in_doubt=chosen.in_doubt)
            with anyio.CancelScope() as scope:
                async with run:
                    figures.before = run.counts.accepted + run.counts.refused
                    self._progress = Log(figures, errors) if chosen.transcript else progress(figures, errors, title)
                    try:
                        await self._work(run, scope)
                    finally:
                        self._progress.close()
        return self._conclude(client.options.shown, sum_up(run.counts, self._unmade))

    async def _work(self, run: Run, scope: "anyio.CancelScope") -> None:
        """Send all, under the eyes of whoever looks; the second signal cancels ``scope``."""
        import anyio

        async with anyio.create_task_group() as tasks:
            await tasks.start(self._heed, scope)
            tasks.start_soon(self._draw)
            try:
                async with run.send_many(self._letters(), key=_key) as self._outcomes:
                    async for outcome in self._outcomes:
                        self._settle(outcome, outcome.item.row)
                        if self._hopeless:
                            break
            except SMTPError as error:
                self._fault, self._hopeless = error, True
            tasks.cancel_scope.cancel()

    async def _draw(self) -> None:
        import anyio

        while True:
            self._progress.draw(time.monotonic())
            await anyio.sleep(FRAME)

    def _stop(self) -> None:
        """Take no more rows; what is in flight is settled."""
        self._progress.close()
        self._progress = Line(self._figures, self._errors)
        self._stopping.set()
        if self._outcomes is not None:
            self._outcomes.leave()  # what was read ahead is given back

    async def _letters(self) -> AsyncIterator[Letter]:
        """The mails, as they are asked for."""
        for row in self._rows:
            if self._lost >= SEVERAL:
                await self._wait()
            if self._stopping.is_set():
                return
            try:
                letter = Letter(*self._template.mail(row.values))
            except InvalidMail as error:
                self._unmade += 1
                self._settle(Outcome(error=error), row)
            else:
                letter.row = row
                yield letter

    async def _wait(self) -> None:
        """Wait for the server to come back, ever longer, and not for ever."""
        import anyio

        if time.monotonic() - self._since > self._chosen.patience:
            self._hopeless = True
            self._stopping.set()
        with anyio.move_on_after(min(2 ** (self._lost - SEVERAL), LONGEST_WAIT)):
            await self._stopping.wait()

    def _settle(self, outcome: Outcome, row: Row) -> None:
        """Count a mail, and see whether it makes sense to go on."""
        recipient = str(row.values.get(self._template.column, ""))
        what = self._figures.settle(outcome, recipient, row.line, time.monotonic())
        if self._failed and what != "accepted":
            self._failed.writerow(self._figures.latest or ())
        error = outcome.error
        if error is None or about_the_mail(error) or outcome.in_doubt:
            if not isinstance(error, InvalidMail):
                self._lost, self._fault = 0, None
            return
        if not self._lost:
            self._since = time.monotonic()
        self._lost, self._fault = self._lost + 1, error
        lasting = not error.transient and not isinstance(error, ProtocolViolation)
        if lasting or not self._figures.latencies.opened:  # waiting makes no difference, or the server was never there
            self._hopeless = True

    def _conclude(self, server: str, found: Sum) -> int:
        """Write the report, print the sum; return the exit code."""
        figures, chosen, errors, heard = self._figures, self._chosen, self._errors, self._heed.heard
        fault = self._fault if self._hopeless and not heard else None
        code = 128 + heard[-1] if heard else code_by(found)
        if fault is not None:
            code = IN_DOUBT if found.fates["in doubt"] else code_of(fault)
        end = "interrupted" if heard else "stopped" if fault else None
        took = time.monotonic() - figures.begun
        if chosen.report:
            failed = str(chosen.failed) if chosen.failed else None
            name = self._rows.path.name
            job = Job(rows=name, server=server, started=self._started, took=took, end=end, failed=failed)
            with chosen.report.open("w", encoding="utf-8") as file:
                file.writelines(page(figures, found, job))
        if chosen.json:
            told = as_json(figures, found, took)
            print(json.dumps({**told, "ledger": str(chosen.ledger), "end": end or "finished", "exit_code": code}))
        else:
            screen = Screen(when=chosen.color)
            for line in summary(figures, found, took, screen):
                screen.line(line)
        if fault is not None:
            errors.line(f"{errors.paint('smtpkit: error:', 'red', 'bold')} {escape(str(fault))}")
        if end is not None or found.fates["deferred"]:
            errors.line("smtpkit: the same command with --resume sends what is left")
        return code


def code_by(found: Sum) -> int:
    """The exit code for what became of all. In doubt outweighs what was refused, and that what may be tried again."""
    fates = found.fates
    if fates["in doubt"]:
        return IN_DOUBT
    if fates["refused"] or fates["invalid"]:
        return SOME_REFUSED if fates["accepted"] or fates["deferred"] else REFUSED if fates["refused"] else INVALID
    return TRANSIENT if fates["deferred"] else ACCEPTED


def summary(figures: Figures, found: Sum, took: float, screen: Screen) -> Iterator[str]:
    """What came of all, and what was said of those that were not accepted, as lines."""
    for what in FATES:
        if count := found.fates[what]:
            yield f"{screen.paint(f'{what:<8}', STYLES[what], 'bold')}  {count:>11,}"
        elif what in ALWAYS:
            yield f"{what:<8}  {count:>11,}"
    refusals = [(name, count) for name, what, count in found.replies if what not in {"accepted", None}]
    for name, count in refusals[:SHOWN]:
        text = escape(name)
        room = screen.width - 23
        shown = f"{text[: room - 1]}…" if screen.live and len(text) > room else text
        yield f"          {count:>11,}  {screen.paint(shown, 'dim')}"
    done = found.fates.total()
    left = figures.total - done
    rest = f", {left:,} left" if left else ""
    before = f", {figures.before:,} of them before" if figures.before else ""
    rate = figures.counts.total() / took if took else 0.0
    opened = figures.latencies.opened
    over = f"{opened} session{'' if opened == 1 else 's'}"
    yield f"{done:,} of {figures.total:,} mails{before}{rest}, {span(took)}, {rate:,.0f} mails/s over {over}"


def as_json(figures: Figures, found: Sum, took: float) -> dict[str, Any]:
    """What came of all, for programs."""
    return {
        "total": figures.total,
        **{what.replace(" ", "_"): found.fates[what] for what in FATES},
        "left": figures.total - found.fates.total(),
        "before": figures.before,
        "replies": {name: count for name, _, count in found.replies},
        "sessions": figures.latencies.opened,
        "octets": figures.latencies.octets,
        "took": round(took, 3),
    }
