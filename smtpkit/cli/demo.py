"""``smtpkit demo``: five kinds of mail to a server of its own, each shown as it goes, and proof that all arrived."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from smtpkit.cli.arguments import Parser, add_colour
from smtpkit.cli.screen import Screen, duration, escape, volume

if TYPE_CHECKING:
    from smtpkit import Client, Outcome
    from smtpkit.testing import Received, Script, Server

USER, PASSWORD = "demo", "mellon"
SENDER = "ann@example.com"
ATTACHMENT = 25 * 2**20  # octets, before base64 makes four thirds of them
RATE = 20e6  # octets per second: on loopback it would be over before it can be seen
MAILS, TASKS, CONNECTIONS = 500, 50, 8
FAILED = 1
FRAME = 0.05  # seconds between two redrawings


class Mail(NamedTuple):
    """What is meant to arrive: the octets as they are sent, and for whom; ``unknown`` are refused by the server."""

    octets: bytes
    recipients: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    sender: str = SENDER


class Row(NamedTuple):
    """A line of the summary."""

    what: str
    accepted: int
    recipients: int
    octets: int
    took: float  # seconds
    rate: str
    same: bool


def main(arguments: Sequence[str]) -> int:
    """Run the demonstration; 0 only if what the server received is what was sent."""
    import asyncio

    from smtpkit.testing import Server

    parser = Parser(
        "demo",
        "Send five kinds of mail to a server on loopback that lives as long as this runs, and compare what arrived.",
        usage="smtpkit demo [--color WHEN]",
        epilog="The exit code is 0 if all that arrived equals what was sent, octet for octet.",
    )
    add_colour(parser)
    screen = Screen(when=parser.parse_args(arguments).color)
    with Server(script()) as server:
        good = asyncio.run(Demo(screen, server).run())
    return 0 if good else FAILED


def script() -> "Script":
    """What the server of the demonstration does."""
    from smtpkit.testing import Script

    return Script(
        tls="starttls",
        users={USER: PASSWORD},
        require_auth=True,
        require_tls=True,
        replies={"RCPT:nobody@example.org": "550 5.1.1 no mailbox of that name here"},
    )


class Demo:
    """The demonstration on a screen, with a server that runs and does what ``script`` says."""

    def __init__(self, screen: Screen, server: "Server") -> None:
        self._screen = screen
        self._server = server
        self._rows: list[Row] = []

    async def run(self) -> bool:
        """Show everything; return whether what the server received is what was sent."""
        try:
            await self._show()
        finally:
            self._screen.erase()
        return self._summary()

    async def _show(self) -> None:
        screen = self._screen
        screen.line(screen.paint("smtpkit demo", "bold"))
        screen.line(f"A server with STARTTLS and a login runs on {self._server.host}, port {self._server.port}.")
        screen.line("Nothing leaves this machine.")
        await self._text()
        await self._html()
        await self._attachment()
        await self._refusal()
        await self._many()

    async def _text(self) -> None:
        """A text mail, with the whole transcript."""
        from smtpkit import Event, Message
        from smtpkit.cli.transcript import Transcript

        self._heading("A text mail, and all that is said", "client.on(Event, show); await client.send(message)")
        text = "Hello Bob,\n\nare you free at noon?\n.\n.. a dot on a line of its own does not end the mail\n"
        message = Message(sender=f"Ann <{SENDER}>", to="bob@example.org", subject="Lunch?", text=text)
        mail = Mail(message.as_bytes(), ("bob@example.org",))
        client = self._client()
        client.on(Event, Transcript(self._screen))
        async with client:
            await self._send(client, mail, "text")

    async def _html(self) -> None:
        """A mail in many scripts, with an HTML part."""
        from smtpkit import Message

        self._heading("A mail in UTF-8 with an HTML part", 'Message(…, text="Smørrebrød?", html="<p>Smørrebrød?")')
        message = Message(
            sender="Åsa <asa@example.com>",
            to="Zoë <zoe@example.org>",
            subject="Grüße · Καλημέρα · Привет · 你好",
            text="Smørrebrød? Crème brûlée? 寿司?\n",
            html="<p>Smørrebrød? <b>Crème brûlée?</b> 寿司?</p>\n",
        )
        mail = Mail(message.as_bytes(), ("zoe@example.org",), sender="asa@example.com")
        async with self._client() as client:
            received, outcome = await self._send(client, mail, "UTF-8 and HTML")
        for arrived in received:
            parsed = arrived.message()
            parts = [part for part in parsed.walk() if not part.is_multipart()]
            self._fact("subject", str(parsed["Subject"]))
            self._fact("parts", ", ".join(f"{part.get_content_type()} {_charset(part)}" for part in parts))
            self._fact("text", str(parts[0].get_content()).strip())
        self._fact("reply", str(outcome.reply))

    async def _attachment(self) -> None:
        """A large attachment, with its progress."""
        from random import Random

        from smtpkit import Attachment, Message, TransferProgress
        from smtpkit.cli.send import progress_line

        self._heading(f"An attachment of {ATTACHMENT >> 20} MiB", f"Client(url, rate={RATE:_.0f})  # octets per second")
        screen = self._screen
        screen.redraw(screen.paint("  writing the mail …", "dim"))
        film = Attachment(Random(1).randbytes(ATTACHMENT), "film.mp4")  # noqa: S311 - a film, not a secret
        message = Message(sender=SENDER, to="bob@example.org", subject="The film", text="Here.\n", attachments=[film])
        mail = Mail(message.as_bytes(), ("bob@example.org",))
        seen: list[TransferProgress] = []
        drawn = 0.0

        def show(event: TransferProgress) -> None:
            nonlocal drawn
            seen[:] = [event]
            if event.at - drawn >= FRAME:
                drawn = event.at
                screen.redraw(progress_line(screen, event))

        client = self._client(rate=RATE)
        client.on(TransferProgress, show)
        async with client:
            _, outcome = await self._send(client, mail, f"{ATTACHMENT >> 20} MiB attachment")
        if seen:
            screen.line(progress_line(screen, seen[0], "sent"))
        self._fact("reply", str(outcome.reply))

    async def _refusal(self) -> None:
        """A mail for two, of whom the server knows one."""
        from smtpkit import Message

        self._heading("One recipient is refused, the other gets the mail", "outcome.accepted, outcome.refused")
        both = ("bob@example.org", "nobody@example.org")
        message = Message(sender=SENDER, to=both, subject="To both of you", text="Hello!\n")
        mail = Mail(message.as_bytes(), both[:1], both[1:])
        async with self._client() as client:
            _, outcome = await self._send(client, mail, "one of two refused")
        screen = self._screen
        for path in outcome.accepted:
            screen.line(f"  {screen.paint('accepted', 'green', 'bold')}  {path}")
        for path, reply in outcome.refused.items():
            refused = screen.paint(escape(str(reply)), "red")
            screen.line(f"  {screen.paint('refused ', 'red', 'bold')}  {path}  {refused}")

    async def _many(self) -> None:
        """Many mails from many tasks over few sessions."""
        import asyncio

        self._heading(
            f"{MAILS} mails from {TASKS} tasks", f"Client(url, connections={CONNECTIONS})  # one for all tasks"
        )
        screen, server = self._screen, self._server
        mails = [_numbered(number) for number in range(1, MAILS + 1)]
        received, sessions = len(server.received), len(server.sessions)
        outcomes: list[Outcome] = []
        drawn = 0.0
        begun = time.perf_counter()

        async def work(client: "Client", share: Sequence[Mail]) -> None:
            nonlocal drawn
            for mail in share:
                outcomes.append(await client.send(mail.octets))
                if (now := time.perf_counter()) - drawn >= FRAME:
                    drawn = now
                    screen.redraw(self._many_line(len(outcomes), now - begun))

        async with self._client(connections=CONNECTIONS) as client:
            await asyncio.gather(*(work(client, mails[number::TASKS]) for number in range(TASKS)))
            took = time.perf_counter() - begun
        screen.line(self._many_line(len(outcomes), took))
        self._fact("sessions", str(len(server.sessions) - sessions))
        arrived = server.received[received:]
        accepted = sum(len(outcome.accepted) for outcome in outcomes)
        size = sum(len(mail.octets) for mail in mails)
        rate = f"{len(arrived) / took:,.0f} mails/s"
        row = Row(f"{MAILS} mails, {TASKS} tasks", accepted, len(mails), size, took, rate, same(mails, arrived))
        self._rows.append(row)

    def _many_line(self, done: int, took: float) -> str:
        from smtpkit.cli.send import progress_width

        screen = self._screen
        bar = screen.bar(done / MAILS, progress_width(screen))
        share = screen.paint(f"{done / MAILS:4.0%}", "bold")
        return f"  {bar} {share}  {done} of {MAILS}  {done / took if took else 0:>7,.0f} mails/s"

    async def _send(self, client: "Client", mail: Mail, what: str) -> "tuple[Sequence[Received], Outcome]":
        """Send one mail, and note how it went for the summary."""
        before = len(self._server.received)
        begun = time.perf_counter()
        outcome = await client.send(mail.octets)  # sender and recipients stand in its header
        took = time.perf_counter() - begun
        arrived = self._server.received[before:]
        expected = same([mail], arrived) and set(outcome.refused) == set(mail.unknown)
        people = len(mail.recipients) + len(mail.unknown)
        size = len(mail.octets)
        rate = f"{volume(size / took)}/s" if size > 1e6 else ""
        self._rows.append(Row(what, len(outcome.accepted), people, size, took, rate, expected))
        return arrived, outcome

    def _client(self, **options: Any) -> "Client":
        from smtpkit import Client

        context = self._server.client_context()
        return Client(self._server.url, user=USER, password=PASSWORD, ssl_context=context, **options)

    def _heading(self, title: str, code: str) -> None:
        screen = self._screen
        if screen.gone:
            raise BrokenPipeError
        number = str(len(self._rows) + 1)
        screen.line()
        screen.line(f"{screen.paint(number, 'cyan', 'bold')} {screen.paint(title, 'bold')}")
        screen.line(screen.paint(f"  {code}", "dim"))
        screen.line()

    def _fact(self, name: str, text: str) -> None:
        self._screen.line(f"  {self._screen.paint(f'{name:<8}', 'dim')}  {escape(text)}")

    def _summary(self) -> bool:
        """Print the table and the verdict."""
        screen = self._screen
        screen.line()
        for line in table(self._rows, screen):
            screen.line(line)
        screen.line()
        breaches = [error for session in self._server.sessions for error in session.errors]
        for breach in breaches:
            screen.line(screen.paint(f"The server complains: {escape(breach)}", "red"))
        good = not breaches and all(row.same for row in self._rows)
        mails = len(self._server.received)
        if good:
            screen.line(
                screen.paint(f"{mails} mails sent, {mails} received, octet for octet the same.", "green", "bold")
            )
        else:
            screen.line(screen.paint("What was received is not what was sent.", "red", "bold"))
        return good


def same(meant: Sequence[Mail], received: "Sequence[Received]") -> bool:
    """Whether what was received is what was meant: sender, recipients and octets of each mail, in whatever order."""
    wanted = [(mail.sender, mail.recipients, mail.octets) for mail in meant]
    return sorted(wanted) == sorted((mail.reverse_path, mail.paths, mail.octets) for mail in received)


def table(rows: Sequence[Row], screen: Screen) -> Iterator[str]:
    """The summary as lines of at most 80 columns."""
    columns: tuple[tuple[str, int, Callable[[Row], str]], ...] = (
        ("recipients", 11, lambda row: f"{row.accepted} of {row.recipients}"),
        ("octets", 12, lambda row: f"{row.octets:,}"),
        ("time", 10, lambda row: duration(row.took)),
        ("rate", 15, lambda row: row.rate),
    )
    head = "".join(f"{name:>{width}}" for name, width, _ in columns)
    yield screen.paint(f"  {'mail':<20}{head} received", "bold")
    yield screen.paint("  " + "─" * 78, "dim")
    for row in rows:
        cells = "".join(f"{cell(row):>{width}}" for _, width, cell in columns)
        verdict = screen.paint("= sent", "green") if row.same else screen.paint("≠ SENT", "red", "bold")
        yield f"  {row.what:<20}{cells} {verdict}"


def _numbered(number: int) -> Mail:
    from smtpkit import Message

    reader, text = f"reader{number}@example.org", f"This is number {number}.\n"
    message = Message(sender=SENDER, to=reader, subject=f"Issue {number}", text=text)
    return Mail(message.as_bytes(), (reader,))


def _charset(part: Any) -> str:
    return f"({part.get_content_charset()})"
