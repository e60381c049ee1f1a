"""``python -m tests.benchmarks``: smtpkit and its peers side by side, in turns, and the table of goals.

Every client runs in a process of its own against a server that costs little. In a round each client of a row is
measured once; a row shows the median of the ratios taken within one round, and their minimum and maximum: what else
the machine does weighs on both sides of a ratio. Compare ratios, not figures of different tables.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import servers
from tests.benchmarks.clients import NODEMAILER, Figures, Job
from tests.benchmarks.rows import TRIALS, Goal, Trial, value
from tests.benchmarks.servers import NotThereError, Server

LIMIT = 400  # seconds that one client may take in one round
MIB = 1024 * 1024


FAILED = "failed"


class FailedError(Exception):
    """A client ended with an error, took too long, or not all it sent arrived."""


class Row(NamedTuple):
    """One line of the table. ``ratios``: one of each round; ``missing``: why there are none."""

    trial: str
    what: str
    goal: Goal
    ratios: list[float]
    missing: str | None

    @property
    def measured(self) -> float:
        """The median."""
        return statistics.median(self.ratios)

    @property
    def verdict(self) -> str:
        """In words."""
        if self.missing is not None:
            return self.missing
        if self.goal.bound is None:
            return "no goal"
        good = self.measured <= self.goal.bound if self.goal.sense == "<=" else self.measured >= self.goal.bound
        return "holds" if good else "falls short"


# --- measuring --------------------------------------------------------------------------------------------------------


def _server(trial: Trial, core: int) -> AbstractContextManager[Server]:
    match trial.server:
        case "sink":
            return servers.sink(core, **trial.server_options)
        case "smtp-sink":
            return servers.postfix_sink(core)
        case "tls":
            return servers.tls_sink(core)
        case "none":
            return nullcontext(Server(0))


def once(trial: Trial, client: str, job: Job) -> Figures:
    """One client, measured once. Raises NotThereError for what cannot be, FailedError where it went wrong."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[0] if trial.same_core else cores[-1]
    with _server(trial, cores[0]) as server:
        job = job._replace(port=server.port)
        words = ["taskset", "-c", str(core), sys.executable, "-m", "tests.benchmarks.clients", client]
        words.append(json.dumps(job._asdict()))
        try:
            process = subprocess.run(words, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            raise FailedError(f"not done after {LIMIT} s") from None
        if process.returncode:
            raise FailedError(process.stderr[-2000:] or f"ended with {process.returncode}")
        figures: Figures = json.loads(process.stdout)
    if "missing" in figures:
        raise NotThereError(figures["missing"])
    if server.counted and server.counted["mails"] != figures["mails"]:
        raise FailedError(f"{figures['mails']} mails sent, {server.counted['mails']} arrived")
    if job.rate:
        figures |= pace(server.counted["trace"], job.rate)
    if job.latency:
        figures["per_trip"] = per_trip(server.counted["ended"][job.warm :], job.latency)
    octets = Path(job.path).stat().st_size if job.path else job.size * job.mails
    return figures | {"units": job.mails * trial.unit, "octets": octets}


def pace(trace: list[tuple[float, int]], rate: float) -> Figures:
    """From when octets came: how far their mean rate is off, in per cent, and the most in a second, over it."""
    times, total, totals = [at for at, _ in trace], 0, []
    for _, octets in trace:
        total += octets
        totals.append(total)
    worst, end = 0, 0
    for start, began in enumerate(times):
        while end < len(times) and times[end] < began + 1:
            end += 1
        worst = max(worst, totals[end - 1] - (totals[start - 1] if start else 0))
    mean = statistics.linear_regression(times, totals).slope
    return {"error": 100 * abs(mean / rate - 1), "worst": worst / rate}


def per_trip(ended: list[float], latency: float) -> float:
    """From when mails had arrived: how many in one round trip. The slope, since those of a window arrive together."""
    return statistics.linear_regression(ended, range(len(ended))).slope * latency


def measure(trial: Trial, *, quick: bool, large: Callable[[int], Path], tiny: bool = False) -> dict[str, Any]:
    """A list of figures for each client, one for each round; or the reason why there are none."""
    jobs = {}
    for client, job in trial.clients.items():
        count = 10 if tiny else max(1, round(trial.counts[quick] * trial.shares.get(client, 1)))
        path = str(large(1 if tiny else trial.sizes[quick])) if job.path else ""
        jobs[client] = job._replace(mails=max(count, job.sessions), path=path)
    found: dict[str, Any] = {client: [] for client in jobs}
    for _ in range(1 if tiny else trial.rounds[quick]):
        for client, job in jobs.items():
            if isinstance(found[client], str):
                continue
            try:
                found[client].append(once(trial, client, job))
            except NotThereError as error:
                found[client] = str(error)
            except FailedError as error:
                print(f"{trial.name}, {client}: {error}", file=sys.stderr)
                found[client] = FAILED
    return found


def judge(trial: Trial, found: dict[str, Any]) -> Iterator[Row]:
    """The rows of a trial."""
    for goal in trial.goals:
        sides = [found[client] for client in (goal.ours, goal.peer) if client is not None]
        missing = next((side for side in sides if isinstance(side, str)), None)
        ratios = []
        if missing is None:
            values = [[value(goal.figure, figures) for figures in side] for side in sides]
            ratios = [pair[0] / pair[1] if goal.peer else pair[0] for pair in zip(*values, strict=True)]
        yield Row(trial.name, _what(goal), goal, ratios, missing)


def _what(goal: Goal) -> str:
    """What a row compares, in words."""
    kinds = {"cpu": "CPU", "rate": "mails/s", "octets": "octets/s"}
    what = goal.what or kinds.get(goal.figure, goal.ours)
    return f"{what} against {goal.peer}" if goal.peer else what


# --- showing ----------------------------------------------------------------------------------------------------------


def head() -> Iterator[str]:
    """What it was measured on."""
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    name = cpu[1] if cpu else platform.machine()
    yield f"{name}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}"
    yield from textwrap.wrap(f"Python {platform.python_version()}, {', '.join(_versions())}", 100)


def _versions() -> Iterator[str]:
    for package in ("smtpkit-client", "aiosmtplib", "smtpproto"):
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"no {package}"
    installed = NODEMAILER.exists()
    yield f"nodemailer {json.loads(NODEMAILER.read_text())['version'] if installed else '10, to be installed'}"
    for command, words in (("node", ["--version"]), ("curl", ["--version"]), ("postconf", ["-dh", "mail_version"])):
        program = shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
        if program is None:
            yield f"no {command}"
            continue
        said = subprocess.run([program, *words], capture_output=True, text=True, check=False, timeout=20).stdout
        number = re.search(r"\d[\d.]+", said)
        yield f"{'Postfix' if command == 'postconf' else command} {number[0] if number else '?'}"


def _number(number: float) -> str:
    """Three digits that say something."""
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}" if abs(number) >= 1 else f"{number:.3f}"


def _columns(row: Row) -> tuple[str, str, str, str, str]:
    """The columns after the name: the goal, the median, the minimum and maximum, the verdict."""
    goal, sign = row.goal, "x" if row.goal.peer and row.goal.sense == ">=" else ""
    bound = "" if goal.bound is None else f"{goal.sense} {goal.bound:g}{sign}"
    if row.missing is not None:
        return row.what, bound, "", "", row.verdict
    least, most = (_number(limit) for limit in (min(row.ratios), max(row.ratios)))
    return row.what, bound, f"{_number(row.measured)}{sign}", f"{least} … {most}", row.verdict


def absolutes(trial: Trial, found: dict[str, Any]) -> str:
    """The medians of what the first goal of a trial divides, to be compared within this line only."""
    figure = trial.goals[0].figure
    scale, unit = {"cpu": (1e6, "µs"), "octets": (1 / MIB, "MiB/s"), "rate": (1, "mails/s"), "ms": (1, "ms")}.get(
        figure, (1, "")
    )
    medians = {
        client: _number(statistics.median(value(figure, figures) for figures in side) * scale)
        for client, side in found.items()
        if not isinstance(side, str)
    }
    return f"{', '.join(f'{client} {median}' for client, median in medians.items())} {unit}".strip()


def plain(trial: Trial, found: dict[str, Any], rows: Iterable[Row]) -> Iterator[str]:
    """The table for a terminal, 100 columns wide."""
    yield f"\n{trial.name}: {trial.about}"
    if len(trial.clients) > 1 and any(not isinstance(side, str) for side in found.values()):
        yield f"  {absolutes(trial, found)}"
    for row in rows:
        what, bound, measured, spread, verdict = _columns(row)
        yield f"  {what:44}{bound:>10}{measured:>10}   {spread:18}{verdict}".rstrip()


def markdown(trials: dict[str, Trial], rows: Iterable[Row]) -> Iterator[str]:
    """The table for the README."""
    yield "| | measured | least … most | goal | |"
    yield "|---|---:|---:|---:|---|"
    before = None
    for row in rows:
        if row.trial != before:
            before = row.trial
            yield f"| **{trials[before].about}** | | | | |"
        what, bound, measured, spread, verdict = _columns(row)
        goal = bound.replace("<=", "≤").replace(">=", "≥")
        yield f"| {what} | {measured} | {spread} | {goal} | {verdict} |"


def _large(folder: Path) -> Callable[[int], Path]:
    """Makes a mail of so many MiB of base64, once each."""

    def make(mebibytes: int) -> Path:
        path = folder / f"large-{mebibytes}"
        if not path.exists():
            line = b"TWFuIGlzIGRpc3Rpbmd1aXNoZWQsIG5vdCBvbmx5IGJ5IGhpcyByZWFzb24sIGJ1dCBieSB0aGlz\r\n"
            header = b"From: ann@example.com\r\nTo: bob@example.com\r\nContent-Transfer-Encoding: base64\r\n\r\n"
            with path.open("wb") as file:
                file.write(header)
                for _ in range(mebibytes):
                    file.write(line * (MIB // len(line)))
        return path

    return make


def main(arguments: list[str] | None = None) -> int:
    """Measure and print. The exit status says whether all went well, not what the figures are: they are for reading."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer mails and rounds: under two minutes")
    parser.add_argument("--tiny", action="store_true", help=argparse.SUPPRESS)  # does it run at all?
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[trial.name for trial in TRIALS], help="trials")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the numbers")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    parser.add_argument("--list", action="store_true", help="say which trials there are")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        print(*(f"{trial.name:18}{trial.about}" for trial in TRIALS), sep="\n")
        return 0
    trials = {trial.name: trial for trial in TRIALS if not chosen.only or trial.name in chosen.only}
    rows, kept = [], {}
    lines = [*head()]
    if not chosen.markdown:
        print(*lines, sep="\n", flush=True)
        print(f"\n  {'':44}{'goal':>10}{'median':>10}   {'least … most':18}")
    with tempfile.TemporaryDirectory(prefix="smtpkit-benchmarks-") as folder:
        large = _large(Path(folder))
        for trial in trials.values():
            kept[trial.name] = found = measure(trial, quick=chosen.quick, large=large, tiny=chosen.tiny)
            judged = list(judge(trial, found))
            rows += judged
            if not chosen.markdown:
                print(*plain(trial, found, judged), sep="\n", flush=True)
    verdicts = [row.verdict for row in rows if row.goal.bound is not None]
    held, short = verdicts.count("holds"), verdicts.count("falls short")
    closing = f"{held} hold, {short} fall short, {len(verdicts) - held - short} not measured"
    if chosen.markdown:
        print(*markdown(trials, rows), "", *lines, closing, sep="\n")
    else:
        print(f"\n{closing}")
    if chosen.json:
        judged_rows = [row._asdict() | {"goal": row.goal._asdict(), "verdict": row.verdict} for row in rows]
        chosen.json.write_text(json.dumps({"head": lines, "rows": judged_rows, "figures": kept}, indent=1))
    return int(any(row.missing == FAILED for row in rows))


if __name__ == "__main__":
    sys.exit(main())
