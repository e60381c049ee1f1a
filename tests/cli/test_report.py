"""The report of a bulk job: a page that parses, stands alone, and in which nobody's words are more than words."""

import re
from collections import Counter
from html.parser import HTMLParser

import pytest

import smtpkit
from smtpkit.cli.figures import STAGES, Fate, Figures, Sum
from smtpkit.cli.report import Job, _clock, _percent, _round_up, _ticks, _time, page

EVIL = "<script>alert('1')</script> \"><img src=x onerror=y> &amp; \x1b[31m \u202e https://example.com/help"
NEVER = smtpkit.Reply(550, (f"5.1.1 {EVIL}",))
DONE = smtpkit.Reply(250, ("2.0.0 queued",))
VOID = {"meta", "br"}
LOADS = {"src", "href", "srcset", "action", "data", "poster", "background", "xlink:href", "style"}
TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "header", "footer", "section", "h1", "h2", "p", "br"),
    *("span", "div", "dl", "dt", "dd", "small", "i", "table", "thead", "tbody", "tr", "th", "td"),
    *("svg", "text", "line", "rect", "path"),
}


class Page(HTMLParser):
    """Checks that tags are known, closed in order, and have plain attributes; keeps the text of each."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        assert not [name for name in names if name.startswith("on")]
        loads = [value for name, value in attrs if name in LOADS]
        assert loads in ([], ["height:.6rem"])
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open  # elsewhere HTML has none that close themselves
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.styles if self.open and self.open[-1] == "style" else self.texts).append(data)


def _job(**more: str | None) -> Job:
    return Job(rows="rows.csv", server="smtp://mail.example.com", started=1.7e9, took=90.0, **more)


def _page(figures: Figures, job: Job) -> str:
    """The page, with a sum in which all that failed has a domain and words of its own."""
    domains: list[tuple[str, Counter[Fate]]] = [
        (f"{number}.<b>.example", Counter[Fate]({"accepted": 2})) for number in range(60)
    ]
    replies: list[tuple[str, Fate | None, int]] = [(one.why, one.what, 1) for one in figures.failures]
    fates = figures.counts + Counter[Fate]({"accepted": figures.before})
    return "".join(
        page(figures, Sum(fates, domains, [("250 2.0.0 queued", "accepted", 60), ("…", None, 1), *replies]), job)
    )


def _busy(failures: int = 3) -> Figures:
    """Figures of a job in which all that can happen did."""
    figures = Figures(10_000, 0.0)
    for number in range(failures):
        to = f"{number}@<b>.example"
        figures.settle(smtpkit.Outcome(refused={to: NEVER}), to, number + 2, number / 10)
    figures.settle(smtpkit.Outcome(in_doubt=("d@x.org",), error=smtpkit.InDoubt("lost")), "d@x.org", 1, 50.0)
    figures.settle(smtpkit.Outcome(error=smtpkit.InvalidMail(EVIL)), EVIL, 1, 60.0)
    figures.settle(smtpkit.Outcome(error=smtpkit.ConnectError("x")), "e@x.org", 1, 70.0)
    for number in range(60):
        to = f"a@{number}.example"
        figures.settle(smtpkit.Outcome(accepted=(to,), reply=DONE), to, 1, 80.0)
    for place, stage in enumerate(STAGES):
        for number in range(1, 50):
            figures.latencies.stages[stage].add(number * 10.0 ** (place - 5))
    figures.latencies.opened = 8
    return figures


@pytest.mark.parametrize("figures", [Figures(1, 0.0), _busy(), _busy(Figures.KEPT + 50)], ids=["empty", "busy", "full"])
def test_page(figures: Figures) -> None:
    """The page is well formed whatever happened, and loads nothing: no script, no link, no picture."""
    text = _page(figures, _job())
    read = Page(text)
    assert text.startswith("<!doctype html>")
    assert "default-src 'none'" in text
    (style,) = read.styles
    assert not re.search(r"url\(|@import|expression", style)
    assert style.count("{") == style.count("}")
    assert "prefers-color-scheme: dark" in style
    for number in re.findall(r' (?:width|height|x|y|x1|x2|y1|y2)="([^"]*)"', text):
        assert float(number) >= 0
    assert not re.search(r"nan|inf\b", text)


def test_words_are_words() -> None:
    """What a server or a row says is shown as it was said, with what would steer anything escaped."""
    text = _page(_busy(), _job(end=EVIL, failed=EVIL))
    shown = [one for one in Page(text).texts if "alert" in one]
    assert len(shown) >= 6
    assert f"550 5.1.1 {EVIL}".replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in shown
    assert "<script" not in text
    assert "<img" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)


def test_no_address_is_in_it() -> None:
    """Unless a server says one, there is no address of the web in the page."""
    figures = Figures(1, 0.0)
    figures.settle(smtpkit.Outcome(accepted=("b@x.org",), reply=DONE), "b@x.org", 2, 0.1)
    text = _page(figures, _job())
    assert not re.search(r"https?:|//(?!mail\.example\.com)|www\.", text)


def test_what_is_left_out_is_said() -> None:
    """A table is cut where it would not be read, and says by how much; a file with all of them is named."""
    figures = _busy(Figures.KEPT + 50)
    words = " ".join(Page(_page(figures, _job(failed="failed.csv"))).texts)
    assert f"The first {Figures.KEPT}; 53 more are left out here, all are in failed.csv." in words
    assert "--failed FILE.csv writes all of them" in (_page(figures, _job()))
    assert re.search(r"And \d+ more domains with \d+ mails", words)
    assert "9,587 of 10,000 are left" in words
    figures.before = 9587
    words = " ".join(Page(_page(figures, _job())).texts)
    assert "9,587 of these were settled by earlier runs." in words
    assert " are left." not in words


def test_the_end_is_told() -> None:
    """The page says whether the job was finished, and when and where it ran."""
    assert "finished" in Page(_page(_busy(), _job())).texts
    words = Page(_page(_busy(), _job(end="interrupted"))).texts
    assert "interrupted" in words
    assert "finished" not in words
    assert any("to smtp://mail.example.com, begun on" in one and "took 90 s" in one for one in words)


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (0.0001, "under 0.1 %"), (0.5, "50 %"), (0.9512, "95.1 %"), (0.99999, "over 99.9 %"), (1, "100 %")],
)
def test_percent(share: float, shown: str) -> None:
    """All and nothing are said only where they are true."""
    assert _percent(share) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(1e-5, "10 µs"), (0.0012, "1.20 ms"), (0.0123, "12.3 ms"), (0.123, "123 ms"), (1.5, "1.50 s"), (100, "2 min")],
)
def test_time(seconds: float, shown: str) -> None:
    """A duration has about three digits."""
    assert _time(seconds) == shown


def test_axes() -> None:
    """An axis ends at a round number not below the largest value, and has a few marks at round times."""
    for value in (0.3, 1, 9.99, 10, 11, 1234, 99_999):
        assert value * 0.999 <= _round_up(value) <= value * 1.5
    for length in (0.4, 2, 59, 3000, 30_000, 300_000, 3_000_000):
        assert 2 <= len(list(_ticks(length))) <= 9
    assert [_clock(seconds) for seconds in (0.5, 30, 90, 3600, 27_000)] == [
        "0.5 s",
        "30 s",
        "1:30 min",
        "1:00 h",
        "7:30 h",
    ]
