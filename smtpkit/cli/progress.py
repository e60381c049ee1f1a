"""How far a bulk job is, while it runs: a panel by rich, a line redrawn in place, or a line every now and then.

rich is used where it is installed and there is a terminal; plain lines are for logs, and come more rarely as time goes.
"""

import time
from collections import deque
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple, Protocol

from smtpkit.cli.figures import FATES, Fate, Figures
from smtpkit.cli.screen import Screen, Style, duration, escape, span, volume

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES: dict[Fate, Style] = {
    "accepted": "green",
    "refused": "red",
    "deferred": "yellow",
    "in doubt": "magenta",
    "invalid": "red",
}
ALWAYS = FATES[:4]  # shown although there are none
REMEMBERED = 15.0  # seconds that the rate is taken of
RARELY = 60.0  # seconds between two lines of a log at most
SPARKS = "▁▂▃▄▅▆▇█"


class State(NamedTuple):
    """Where a job stands: mails per second of late, and the seconds left at that rate, if that is known."""

    share: float
    rate: float
    left: float | None
    elapsed: float


class Pace:
    """Takes the rate of late out of what is done at each look."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._seen: deque[tuple[float, int]] = deque([(figures.begun, figures.done)])

    def look(self, now: float) -> State:
        """The state at ``now``, on the clock of the events."""
        figures, seen = self._figures, self._seen
        done = figures.done
        if now - seen[-1][0] >= REMEMBERED / 30:
            seen.append((now, done))
        while len(seen) > 1 and now - seen[1][0] >= REMEMBERED:
            seen.popleft()
        since, before = seen[0]
        rate = (done - before) / (now - since) if now > since else 0.0
        left = (figures.total - done) / rate if rate else None
        return State(done / figures.total, rate, left, now - figures.begun)


class Progress(Protocol):
    """Shows the figures of a job."""

    def draw(self, now: float) -> None:
        """Show how it stands, if it is time to."""

    def close(self) -> None:
        """Take away what is redrawn."""


def progress(figures: Figures, screen: Screen, title: str) -> Progress:
    """The best that can be shown there."""
    if not screen.live:
        return Log(figures, screen)
    rich = screen.colour and screen.can_say(SPARKS) and find_spec("rich") is not None
    return Panel(figures, screen, title) if rich else Line(figures, screen)


def counted(figures: Figures) -> list[tuple[Fate, int]]:
    """How many came to what; nothing of those that are rare."""
    return [(what, figures.counts[what]) for what in FATES if what in ALWAYS or figures.counts[what]]


class Log:
    """A line at first every few seconds, in the end every minute."""

    def __init__(self, figures: Figures, screen: Screen) -> None:
        self._figures = figures
        self._screen = screen
        self._pace = Pace(figures)
        self._due = figures.begun + 5

    def draw(self, now: float) -> None:
        """A line, if one is due."""
        state = self._pace.look(now)
        if now >= self._due:
            self._due = now + min(5 + state.elapsed / 10, RARELY)
            self._screen.line(f"{time.strftime('%H:%M:%S')}  {log_line(self._figures, state)}")

    def close(self) -> None:
        """Nothing is redrawn."""


def log_line(figures: Figures, state: State) -> str:
    """Where a job stands, in words."""
    parts = [f"{figures.done:,} of {figures.total:,} ({state.share:.0%})", f"{_rate(state)}/s"]
    parts += [f"{count:,} {what}" for what, count in counted(figures)]
    parts.append(_sessions(figures))
    return ", ".join([*parts, *([f"{span(state.left)} left"] if state.left is not None else [])])


class Line:
    """A line redrawn in place."""

    def __init__(self, figures: Figures, screen: Screen) -> None:
        self._figures = figures
        self._screen = screen
        self._pace = Pace(figures)

    def draw(self, now: float) -> None:
        """Draw it."""
        self._screen.redraw(line(self._figures, self._pace.look(now), self._screen))

    def close(self) -> None:
        """Take it away."""
        self._screen.erase()


def line(figures: Figures, state: State, screen: Screen) -> str:
    """Where a job stands in one line, no wider than the screen: what matters least is left out first."""
    fates = {what: f"{count:,} {what}" for what, count in counted(figures)}
    left = f"{span(state.left)} left" if state.left is not None else ""
    parts = [f"{state.share:4.0%}", f"{_rate(state)}/s", left, *fates.values(), _sessions(figures)]
    least = [_sessions(figures), *(fates[what] for what in reversed(fates) if not figures.counts[what]), left]
    room = screen.width - 3
    for part in (*least, *reversed(fates.values())):
        if len("  ".join(filter(None, parts))) <= room:
            break
        if part in parts:
            parts.remove(part)
    width = min(room - len("  ".join(filter(None, parts))) - 2, 30)
    colours = {text: STYLES[what] for what, text in fates.items() if figures.counts[what]}
    shown = "  ".join(screen.paint(part, colours.get(part, "plain")) for part in parts if part)
    return f"  {screen.bar(state.share, width)}  {shown}" if width >= 8 else f"  {shown}"


class Panel:
    """A few lines redrawn in place by rich: bar, rate over time, counts, how long replies take, the last refusal."""

    def __init__(self, figures: Figures, screen: Screen, title: str) -> None:
        from rich.console import Console
        from rich.live import Live

        self._figures = figures
        self._pace = Pace(figures)
        self._title = title
        self._rates: deque[float] = deque(maxlen=24)
        self._due = figures.begun
        width = screen.width - 3  # what the keyboard echoes has room behind the last line
        console = Console(file=screen.file, width=width, highlight=False, force_terminal=True)
        self._live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live.start()

    def draw(self, now: float) -> None:
        """Draw it."""
        state = self._pace.look(now)
        if now >= self._due:
            self._due = now + 1
            self._rates.append(state.rate)
        self._live.update(self._panel(state), refresh=True)

    def close(self) -> None:
        """Take it away."""
        self._live.stop()

    def _panel(self, state: State) -> "RenderableType":
        from rich import box
        from rich.console import Group
        from rich.panel import Panel as Box
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        figures = self._figures
        bar = Table.grid(padding=(0, 2), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        amount = f"{figures.done:,} of {figures.total:,}  {state.share:.0%}"
        bar.add_row(ProgressBar(figures.total, figures.done, complete_style="cyan", finished_style="cyan"), amount)
        counts = Text("  ").join(
            Text.assemble((f"{count:,}", f"bold {STYLES[what]}"), f" {what}")
            if count
            else Text(f"{count} {what}", "dim")
            for what, count in counted(figures)
        )
        lines = [Text(self._speed(state)), counts, Text(self._replies(), "dim")]
        if (last := figures.latest) is not None:
            lines.append(Text(escape(f"{last.what}: {last.recipient}  {last.why}"), "dim"))
        for one in lines:
            one.no_wrap, one.overflow = True, "ellipsis"
        elapsed = span(state.elapsed) + (f", {span(state.left)} left" if state.left is not None else "")
        title, subtitle = Text(escape(self._title)), Text(elapsed)
        return Box(Group(bar, "", *lines), title=title, subtitle=subtitle, box=box.ROUNDED, border_style="dim")

    def _speed(self, state: State) -> str:
        most = max(self._rates, default=0) or 1
        sparks = "".join(SPARKS[round(rate / most * (len(SPARKS) - 1))] for rate in self._rates)
        octets = self._figures.latencies.octets / state.elapsed if state.elapsed else 0.0
        return f"{_rate(state)} mails/s  {sparks}  {volume(octets)}/s  {_sessions(self._figures)}"

    def _replies(self) -> str:
        verdicts = self._figures.latencies.stages["mail data"]
        if not verdicts.count:
            return "no reply to mail data yet"
        half, most = duration(verdicts.quantile(0.5)), duration(verdicts.quantile(0.95))
        return f"reply to mail data: half within {half}, 95 % within {most}"


def _rate(state: State) -> str:
    return f"{state.rate:,.0f}" if state.rate >= 9.95 or not state.rate else f"{state.rate:.1f}"


def _sessions(figures: Figures) -> str:
    count = figures.latencies.sessions
    return f"{count} session{'' if count == 1 else 's'}"
