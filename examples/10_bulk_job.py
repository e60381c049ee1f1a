"""A bulk job with progress, that survives being killed: what was sent stands in a ledger, and the next run goes on."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import smtpkit
from smtpkit.testing import Script, Server

MAILS = 400


def letters() -> Iterator[smtpkit.Message]:
    """One letter after the other, as rows of a table would give them; they are made as they can be sent."""
    for number in range(MAILS):
        to = f"reader{number}@{'example.org' if number % 3 else 'example.net'}"
        yield smtpkit.Message(sender="news@example.com", to=to, subject=f"Issue {number}", text="Dear reader, …")


async def job(client: smtpkit.Client, ledger: Path, most: int = MAILS) -> None:
    """Send what is left, at most so many, and show how far it is."""
    async with smtpkit.Run(ledger, client) as run, run.send_many(letters()) as outcomes:
        done = 0
        async for outcome in outcomes:
            done += 1
            if outcome.error is not None:
                print(f"{outcome.item.to}: {outcome.error}")
            if done % 100 == 0:
                print(f"{run.counts.accepted:,} of {MAILS} accepted, {run.counts.refused} refused")
            if done == most:
                break  # somebody pulls the plug
    print(*(f"{domain}: {counts.accepted} accepted" for domain, counts in run.counts.domains.items()), sep=", ")


async def main() -> None:
    """Send a part of it, as if the job had been killed, and then the rest."""
    script = Script(replies={"RCPT:reader77@example.org": "550 5.1.1 no such user"})
    with Server(script) as server, tempfile.TemporaryDirectory() as folder:
        async with smtpkit.Client(server.url, connections=4) as client:
            await job(client, Path(folder, "issue.run"), most=150)
            await job(client, Path(folder, "issue.run"))
        sent = [path for mail in server.received for path in mail.paths]
        print(f"{len(sent)} mails were sent, {len(sent) - len(set(sent))} of them twice")


asyncio.run(main())
