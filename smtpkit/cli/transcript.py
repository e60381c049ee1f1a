"""The transcript: what was said, marked as swaks does, with the time that each step took.

===== ============================== =====================================
in    in
clear TLS
===== ============================== =====================================
->    ~>                             what we said, secrets masked
<-    <~                             what the server said
<**   <~*                            and it was a refusal
==    ==                             what happened
**    **                             and it was bad
===== ============================== =====================================
"""

from typing import Literal, NamedTuple

from smtpkit import (
    Attempted,
    Authenticated,
    CommandSent,
    Connected,
    Event,
    EventsMissed,
    Outcome,
    RecipientRefused,
    Reply,
    ReplyReceived,
    Secured,
    SecurityMissing,
    SessionClosed,
    Settled,
    TransferEnded,
    TransferStarted,
)
from smtpkit.cli.screen import Screen, Style, duration, escape, volume

Tone = Literal["said", "heard", "refusal", "note", "good", "warning", "bad"]

_MARK: dict[Tone, tuple[Style, ...]] = {
    "said": ("cyan",),
    "heard": ("green",),
    "refusal": ("red", "bold"),
    "note": ("magenta",),
    "good": ("green", "bold"),
    "warning": ("yellow", "bold"),
    "bad": ("red", "bold"),
}
_TEXT: dict[Tone, tuple[Style, ...]] = {
    "said": ("bold",),
    "refusal": ("red",),
    "note": ("magenta",),
    "good": ("green",),
    "warning": ("yellow",),
    "bad": ("red",),
}


class Line(NamedTuple):
    """A line of the transcript: its mark, its text (safe to print, no line end), its tone."""

    mark: str
    text: str
    tone: Tone


def lines(event: Event) -> tuple[Line, ...]:
    """What the transcript shows of an event; nothing of progress."""
    match event:
        case Connected(address=address):
            return (Line("==", f"connected to {escape(address)}", "note"),)
        case CommandSent(text=text, secured=secured):
            return (Line("~>" if secured else "->", escape(text), "said"),)
        case ReplyReceived(reply=reply, secured=secured):
            return _heard(reply, secured=secured)
        case Secured():
            return _secured(event)
        case SecurityMissing(server=server):
            return (Line("**", f"{escape(server)} offered STARTTLS before, and no longer does", "warning"),)
        case Authenticated(mechanism=mechanism):
            return (Line("==", f"logged in by {escape(mechanism)}", "note"),)
        case TransferStarted(size=size):
            return (Line("==", "mail data" if size is None else f"mail data, {size:,} octets", "note"),)
        case TransferEnded(done=done, took=took):
            rate = f", {volume(done / took)}/s" if took >= 0.05 else ""
            return (Line("==", f"mail data sent: {done:,} octets in {duration(took)}{rate}", "note"),)
        case RecipientRefused(path=path, reply=reply):
            return (Line("**", f"refused: {escape(path)}: {escape(str(reply))}", "bad"),)
        case Settled(outcome=outcome):
            return _settled(outcome)
        case Attempted(path=path, state=state):
            return (Line("==", f"{state}: {escape(path)}", "note"),)
        case SessionClosed(reason=reason):
            return (Line("==", "closed" if reason is None else f"closed: {escape(reason)}", "note"),)
        case EventsMissed(count=count):
            return (Line("**", f"{count} events were missed here", "warning"),)
    return ()


def _heard(reply: Reply, *, secured: bool) -> tuple[Line, ...]:
    arrow = "<~" if secured else "<-"
    mark = ("<~*" if secured else "<**") if reply.negative else arrow
    tone: Tone = "refusal" if reply.negative else "heard"
    last = len(reply.lines) - 1
    return tuple(
        Line(mark, f"{reply.code}{' ' if number == last else '-'}{escape(text)}", tone)
        for number, text in enumerate(reply.lines)
    )


def _secured(event: Secured) -> tuple[Line, ...]:
    text = f"{event.version}, {event.cipher}, "
    if event.verified:
        return (Line("==", f"{text}certificate verified", "note"),)
    return (Line("**", f"{text}certificate not verified: anybody may be listening", "warning"),)


def _settled(outcome: Outcome) -> tuple[Line, ...]:
    found = []
    if outcome.accepted:
        found.append(Line("==", f"accepted for {_people(outcome.accepted)}", "good"))
    if outcome.in_doubt:
        found.append(Line("**", f"in doubt for {_people(outcome.in_doubt)}: it may have been accepted", "warning"))
    if outcome.error is not None and not outcome.accepted:
        found.append(Line("**", escape(str(outcome.error)), "bad"))
    return tuple(found)


def _people(paths: tuple[str, ...]) -> str:
    shown = ", ".join(escape(path) for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3:,} more"


class Transcript:
    """Prints each event it is called with. The time before a line is what passed since the event before it."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._latest: dict[int, float] = {}  # by session

    def __call__(self, event: Event) -> None:
        """Print what there is to show of it."""
        shown = lines(event)
        if not shown:
            return
        screen = self._screen
        before = self._latest.get(event.session)
        self._latest[event.session] = event.at
        time = "" if before is None else f"{max(event.at - before, 0) * 1e3:.1f} ms"
        for mark, text, tone in shown:
            marked = screen.paint(f"{mark:<3}", *_MARK[tone])
            text = screen.paint(text, *_TEXT.get(tone, ()))
            screen.line(f"{screen.paint(f'{time:>11}', 'dim')}  {marked} {text}")
            time = ""
