"""The report of a bulk job: one page that stands alone, with drawings in SVG, for light and dark, and no script.

Rules: nothing is fetched from anywhere. What comes from rows and servers is shown as text: control characters escaped
for people, markup for the page; ``_safe`` is the only way in.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape as marked
from math import ceil, floor, log10
from typing import TYPE_CHECKING

from smtpkit.cli.figures import FATES, STAGES, Fate, Figures, Histogram, Sum, Timeline
from smtpkit.cli.screen import escape, span, volume

if TYPE_CHECKING:
    from collections import Counter

MOST_DOMAINS = 25  # rows of a table
MOST_REPLIES = 25

STYLE = """\
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #15191f; --soft: #5b6573; --line: #e0e4ea;
  --accepted: #2b7a5f; --refused: #c8324b; --deferred: #d69118; --in-doubt: #7c4fc4; --invalid: #737c89;
  --bar: #3568b5 }
@media (prefers-color-scheme: dark) { :root { --page: #101318; --card: #191d24; --ink: #e8ebf0; --soft: #9ba6b5;
  --line: #2c323c; --accepted: #4fb592; --refused: #ef6a7e; --deferred: #e5b04f; --in-doubt: #b08ff0;
  --invalid: #8d97a5; --bar: #6f9fe8 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 3rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 0 0 .2rem }
p { margin: .2rem 0 0; color: var(--soft); overflow-wrap: anywhere }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.1rem 1.25rem 1.25rem;
  margin-top: 1rem }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0 0;
  padding: 0 }
.tiles div { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--tone, var(--line));
  border-radius: 10px; padding: .6rem .9rem .7rem }
dt { color: var(--soft); font-size: .85rem }
dd { margin: 0; font-size: 1.5rem; font-weight: 650; line-height: 1.2; font-variant-numeric: tabular-nums }
dd small { display: block; font-size: .8rem; font-weight: 400; color: var(--soft) }
.end { display: inline-block; border-radius: 99px; padding: .1rem .7rem; font-size: .85rem; font-weight: 600;
  color: var(--card); background: var(--tone); vertical-align: .25em; margin-left: .5rem; white-space: nowrap }
svg { display: block; width: 100%; height: auto }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums }
.grid { stroke: var(--line); stroke-width: 1 }
.scroll { overflow-x: auto; margin-top: .7rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .9rem }
th { text-align: left; font-weight: 500; color: var(--soft); white-space: nowrap }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
tbody tr:last-child > * { border-bottom: 0 }
th:last-child, td:last-child { padding-right: 0 }
tbody th { color: var(--ink); font-weight: 400; white-space: normal; overflow-wrap: anywhere; min-width: 11rem }
.n { text-align: right; white-space: nowrap }
.zero { color: var(--soft); opacity: .55 }
.words { font: .84rem/1.45 ui-monospace, monospace; overflow-wrap: anywhere; min-width: 15rem }
.share { width: 22%; min-width: 6rem; vertical-align: middle }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: .5rem 0 .6rem; font-size: .85rem;
  color: var(--soft) }
.legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 3px; background: var(--tone);
  margin-right: .4rem }
.accepted { --tone: var(--accepted) } .refused { --tone: var(--refused) } .deferred { --tone: var(--deferred) }
.in-doubt { --tone: var(--in-doubt) } .invalid { --tone: var(--invalid) }
rect, path { fill: var(--tone, var(--bar)) }
.what { white-space: nowrap }
.what::before { content: ''; display: inline-block; width: .6rem; height: .6rem; border-radius: 50%;
  background: var(--tone); margin-right: .45rem }
.stage td, .stage th { vertical-align: middle }
.stage .plot { width: 46%; min-width: 19rem; padding-top: .45rem }
small { color: var(--soft) }
.chart { min-width: 40rem }
footer { color: var(--soft); font-size: .85rem; margin-top: 1.5rem }
@media (max-width: 640px) { main { padding: 1.25rem .75rem 2rem } section { padding: .9rem } }
@media print { body { background: #fff } section { break-inside: avoid } }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the figures are of: ``started`` in seconds since 1970, ``took`` in seconds.

    ``end`` says why it ended before its time; ``failed`` is the file that holds all that were not accepted.
    """

    rows: str
    server: str
    started: float
    took: float
    end: str | None = None
    failed: str | None = None


def page(figures: Figures, found: Sum, job: Job) -> Iterator[str]:
    """The page, in pieces."""
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{_safe(job.rows)}: {found.fates.total():,} mails</title>\n"
        f"<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
    )
    yield from _head(figures, found, job)
    yield from _throughput(figures.timeline)
    yield from _stages(figures)
    yield from _domains(found)
    yield from _replies(found)
    yield from _failures(figures, job)
    yield "<footer>Made by smtpkit. Times are those of this machine.</footer>\n</main>\n</body>\n</html>\n"


def _safe(text: str) -> str:
    """The text as a part of the page, whoever wrote it."""
    return marked(escape(text))


def _class(what: Fate) -> str:
    return what.replace(" ", "-")


# The head -------------------------------------------------------------------------------------------------------------


def _head(figures: Figures, found: Sum, job: Job) -> Iterator[str]:
    end, tone = ("finished", "accepted") if job.end is None else (job.end, "refused")
    yield f'<header>\n<h1>{_safe(job.rows)} <span class="end {tone}">{_safe(end)}</span></h1>\n'
    day = time.strftime("%A, %d %B %Y, %H:%M:%S %Z", time.localtime(job.started)).strip()
    yield f"<p>to {_safe(job.server)}, begun on {_safe(day)}, took {span(job.took)}</p>\n</header>\n"
    done = found.fates.total()
    yield '<dl class="tiles">\n'
    for what in FATES:
        count = found.fates[what]
        if count or what != "invalid":
            share = f"{_percent(count / (done or 1))} of {done:,}"
            yield f'<div class="{_class(what)}"><dt>{what}</dt><dd>{count:,}<small>{share}</small></dd></div>\n'
    rate = figures.counts.total() / job.took if job.took else 0
    opened = figures.latencies.opened
    sessions = f"over {opened:,} session{'' if opened == 1 else 's'}, {volume(figures.latencies.octets)}"
    yield f"<div><dt>mails per second</dt><dd>{_number(rate)}<small>{sessions}</small></dd></div>\n</dl>\n"
    left = figures.total - done
    if figures.before or left:
        parts = [f"{figures.before:,} of these were settled by earlier runs"] * bool(figures.before)
        parts += [f"{left:,} of {figures.total:,} are left"] * bool(left)
        yield f"<p>{'; '.join(parts)}.</p>\n"


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "under 0.1 %"
    if 0.999 < share < 1:
        return "over 99.9 %"
    return f"{share:.1%}".replace("%", " %").replace(".0 %", " %")


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 or not value else f"{value:.1f}"


# Throughput -----------------------------------------------------------------------------------------------------------

WIDE, HIGH, LEFT, BELOW = 1000, 240, 48, 24


def _throughput(timeline: Timeline) -> Iterator[str]:
    spans, width = timeline.spans, timeline.width
    yield "<section>\n<h2>Throughput</h2>\n"
    if not spans:
        yield "<p>No mail was settled.</p>\n</section>\n"
        return
    per = f"{width * 1000:.0f} ms" if width < 1 else span(width)
    yield f"<p>Mails settled per second, over the time since the beginning; a column is {per} wide.</p>\n"
    found = [what for what in FATES if any(one[what] for one in spans)]
    yield from _legend(found)
    top = _round_up(max(one.total() for one in spans) / width)
    yield f'<div class="scroll"><svg class="chart" viewBox="0 -8 {WIDE} {HIGH + BELOW + 8}" role="img" '
    yield 'aria-label="Mails settled per second over time">\n'
    for step in range(5):
        y = HIGH - HIGH * step / 4
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDE}" y1="{y:g}" y2="{y:g}"/>'
        yield f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{_short(top * step / 4)}</text>\n'
    column = (WIDE - LEFT) / len(spans)
    for what, heights in _stacked(spans, found):
        yield f'<path class="{_class(what)}" d="'
        for place, (low, high) in enumerate(heights):
            if high > low:
                x, scale = LEFT + place * column, HIGH / top / width
                gap = 0 if len(spans) > 120 else min(column * 0.15, 3)
                yield f"M{x:.1f} {HIGH - low * scale:.1f}v{(low - high) * scale:.2f}h{column - gap:.2f}"
                yield f"v{(high - low) * scale:.2f}z"
        yield f'"><title>{what}</title></path>\n'
    for at in _ticks(len(spans) * width):
        x = LEFT + at / width * column
        yield f'<text x="{x:.0f}" y="{HIGH + 18}" text-anchor="{"middle" if at else "start"}">{_clock(at)}</text>\n'
    yield "</svg></div>\n</section>\n"


def _stacked(spans: "Sequence[Counter[Fate]]", found: Iterable[Fate]) -> "Iterator[tuple[Fate, list[tuple[int, int]]]]":
    """For each fate where its part of each column begins and ends."""
    low = [0] * len(spans)
    for what in found:
        high = [below + one[what] for below, one in zip(low, spans, strict=True)]
        yield what, list(zip(low, high, strict=True))
        low = high


def _legend(found: Iterable[Fate]) -> Iterator[str]:
    yield '<div class="legend">'
    yield from (f'<span class="{_class(what)}"><i></i>{what}</span>' for what in found)
    yield "</div>\n"


def _round_up(value: float) -> float:
    """The next number that divides well by four."""
    if value <= 0:
        return 1.0
    unit = 10 ** floor(log10(value))
    return float(next(step * unit for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * unit >= value * 0.999))


def _short(value: float) -> str:
    return f"{value / 1000:g}k" if value >= 10_000 else f"{value:,.4g}"


def _ticks(length: float) -> Iterator[float]:
    """Five or so round times within a length in seconds."""
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200)
    step = next((step for step in steps if length / step <= 8), 86_400 * ceil(length / 86_400 / 8))
    yield from (number * step for number in range(int(length / step) + 1) if number * step <= length * 0.98)


def _clock(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:g} s"
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours}:{minutes:02} h" if hours else f"{minutes}:{round(seconds) % 60:02} min"


# Latencies ------------------------------------------------------------------------------------------------------------

PLOT_WIDE, PLOT_HIGH = 400, 34


def _stages(figures: Figures) -> Iterator[str]:
    found = {stage: one for stage, one in figures.latencies.stages.items() if one.count}
    yield "<section>\n<h2>How long replies took</h2>\n"
    if not found:
        yield "<p>No reply came.</p>\n</section>\n"
        return
    yield (
        "<p>From a command's last octet written to its reply, in classes of equal ratio. Mails overlap, so a reply may "
        "have waited for those before it.</p>\n"
    )
    each = Histogram.EACH
    used = [place for one in found.values() for place, count in enumerate(one.counts) if count]
    first, last = min(used) // each * each, (max(used) // each + 1) * each
    yield '<div class="scroll"><table class="stage">\n<thead><tr><th>stage</th><th>'
    yield f'{_axis(first, last)}</th><th class="n">replies</th><th class="n">half within</th>'
    yield '<th class="n">95 %</th><th class="n">99 %</th><th class="n">longest</th></tr></thead>\n<tbody>\n'
    for stage, one in found.items():
        meaning = f"<br><small>{_safe(STAGES[stage])}</small>" if STAGES[stage] else ""
        yield f'<tr><th>{_safe(stage)}{meaning}</th><td class="plot">{_plot(one, first, last)}</td>'
        quantiles = (*map(one.quantile, (0.5, 0.95, 0.99)), one.most)
        cells = "".join(f'<td class="n">{_time(seconds)}</td>' for seconds in quantiles)
        yield f'<td class="n">{one.count:,}</td>{cells}</tr>\n'
    yield "</tbody></table></div>\n</section>\n"


def _time(seconds: float) -> str:
    """A duration to two or three digits."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.{2 if seconds < 0.00995 else 1 if seconds < 0.0995 else 0}f} ms"
    return f"{seconds:.2f} s" if seconds < 99.5 else span(seconds)


def _axis(first: int, last: int) -> str:
    """The decades, above the plots."""
    labels = []
    for place in range(first, last + 1, Histogram.EACH):
        x = PLOT_WIDE * (place - first) / (last - first)
        exponent = Histogram.FIRST + place // Histogram.EACH
        anchor = "start" if place == first else "end" if place == last else "middle"
        number = 10.0**exponent
        text = f"{number * 1e6:g} µs" if exponent < -3 else f"{number * 1e3:g} ms" if exponent < 0 else f"{number:g} s"
        labels.append(f'<text x="{x:.0f}" y="12" text-anchor="{anchor}">{text}</text>')
    return f'<svg viewBox="0 0 {PLOT_WIDE} 16">{"".join(labels)}</svg>'


def _plot(one: Histogram, first: int, last: int) -> str:
    wide, most = PLOT_WIDE / (last - first), max(one.counts)
    parts = []
    for place in range(first, last + 1, Histogram.EACH):
        x = PLOT_WIDE * (place - first) / (last - first)
        parts.append(f'<line class="grid" x1="{x:.0f}" x2="{x:.0f}" y1="0" y2="{PLOT_HIGH}"/>')
    for place, count in enumerate(one.counts):
        if count:
            high = max(PLOT_HIGH * count / most, 1.5)
            said = f"{_time(one.edge(place))} to {_time(one.edge(place + 1))}: {count:,}"
            x, y = (place - first) * wide, PLOT_HIGH - high
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide - 1:.1f}" height="{high:.1f}"><title>{said}</title></rect>'
            )
    return f'<svg viewBox="0 0 {PLOT_WIDE} {PLOT_HIGH}" role="img" aria-label="histogram">{"".join(parts)}</svg>'


# Tables ---------------------------------------------------------------------------------------------------------------


def _domains(found: Sum) -> Iterator[str]:
    yield "<section>\n<h2>By domain</h2>\n"
    yield "<p>Where the recipients are, the largest first.</p>\n"
    fates = [what for what in FATES if any(counts[what] for _, counts in found.domains)]
    yield from _legend(fates)
    head = "".join(f'<th class="n">{what}</th>' for what in fates)
    yield f'<div class="scroll"><table>\n<thead><tr><th>domain</th><th></th><th class="n">mails</th>{head}</tr></thead>'
    yield "\n<tbody>\n"
    for name, counts in found.domains[:MOST_DOMAINS]:
        cells = "".join(_count(counts[what]) for what in fates)
        yield f'<tr><th>{_safe(name)}</th><td class="share">{_share(counts, fates)}</td>'
        yield f"{_count(counts.total())}{cells}</tr>\n"
    yield "</tbody></table></div>\n"
    yield _rest([counts.total() for _, counts in found.domains[MOST_DOMAINS:]], "domains")
    yield "</section>\n"


def _share(counts: "Counter[Fate]", found: Iterable[Fate]) -> str:
    """What part came to what, as one bar."""
    x, parts, total = 0.0, [], counts.total() or 1
    for what in found:
        wide = 100 * counts[what] / total
        if wide:
            title = f"<title>{what}: {_percent(wide / 100)}</title>"
            parts.append(f'<rect class="{_class(what)}" x="{x:.2f}" width="{wide:.2f}" height="8">{title}</rect>')
        x += wide
    return f'<svg viewBox="0 0 100 8" preserveAspectRatio="none" style="height:.6rem">{"".join(parts)}</svg>'


def _count(count: int) -> str:
    return f'<td class="n{"" if count else " zero"}">{count:,}</td>'


def _rest(left: Sequence[int], noun: str) -> str:
    """What a table leaves out, in words."""
    return f"<p>And {len(left):,} more {noun} with {sum(left):,} mails.</p>\n" if left else ""


def _replies(found: Sum) -> Iterator[str]:
    yield "<section>\n<h2>By reply</h2>\n"
    yield "<p>The last word on each mail, without what differs from mail to mail (…).</p>\n"
    yield '<div class="scroll"><table>\n<thead><tr><th>reply</th><th>came to</th><th></th><th class="n">mails</th></tr>'
    yield "</thead>\n<tbody>\n"
    most = max((count for *_, count in found.replies), default=1)
    for name, what, count in found.replies[:MOST_REPLIES]:
        tone, said = (_class(what), what) if what else ("invalid", "various")
        bar = f'<rect class="{tone}" width="{max(100 * count / most, 0.6):.2f}" height="8"/>'
        yield f'<tr><td class="words">{_safe(name)}</td><td class="what {tone}">{said}</td><td class="share">'
        yield f'<svg viewBox="0 0 100 8" preserveAspectRatio="none" style="height:.6rem">{bar}</svg></td>'
        yield f"{_count(count)}</tr>\n"
    yield "</tbody></table></div>\n"
    yield _rest([count for *_, count in found.replies[MOST_REPLIES:]], "replies")
    yield "</section>\n"


def _failures(figures: Figures, job: Job) -> Iterator[str]:
    yield "<section>\n<h2>Not accepted</h2>\n"
    if not figures.failed:
        yield "<p>Nobody in this run.</p>\n</section>\n"
        return
    shown = figures.failures
    left = figures.failed - len(shown)
    whole = f"all are in {_safe(job.failed)}" if job.failed else "--failed FILE.csv writes all of them"
    note = f"The first {len(shown):,}; {left:,} more are left out here, {whole}." if left else f"All {len(shown):,}."
    yield f'<p>In this run, with the server\'s words. {note}</p>\n<div class="scroll"><table>\n'
    yield '<thead><tr><th>recipient</th><th class="n">line</th><th>came to</th><th>why</th></tr></thead>\n<tbody>\n'
    for one in shown:
        yield f'<tr><th>{_safe(one.recipient)}</th><td class="n">{one.line:,}</td>'
        yield f'<td class="what {_class(one.what)}">{one.what}</td><td class="words">{_safe(one.why)}</td></tr>\n'
    yield "</tbody></table></div>\n</section>\n"
