"""Mails wait in a directory, and are sent from there: who was put off gets the mail later, everybody gets it once."""

import asyncio
import tempfile

import smtpkit
from smtpkit.testing import Script, Server


async def main() -> None:
    """Queue three mails; one recipient is greylisted at first, and one does not exist."""
    script = Script(
        replies={
            "RCPT:bob@example.org": ["450 4.2.0 greylisted, come back later", "250 2.1.5 welcome"],
            "RCPT:nobody@example.org": "550 5.1.1 no such user",
        }
    )
    retry = smtpkit.Retry(first=0.1, greylisted=0.1)  # seconds; by default minutes and hours, for five days
    with Server(script) as server, tempfile.TemporaryDirectory() as letters:
        for to in (["bob@example.org", "cy@example.org"], ["nobody@example.org"], ["dee@example.org"]):
            message = smtpkit.Message(sender="ann@example.com", to=to, subject="Later", text="See you at noon.")
            await smtpkit.enqueue(letters, message)  # it is on the disk now

        async with smtpkit.Client(server.url, connections=2) as client:
            client.on(smtpkit.Attempted, lambda event: print(f"attempt {event.attempts}: {event.state}"))
            await client.worker(letters, retry=retry).run(wait=True)  # a service would watch(), and stop() at its end

        with smtpkit.Spool(letters) as spool:
            for file in spool.files():
                print(f"{file.state}: {', '.join(file.recipients)}")
        print(sorted(path for mail in server.received for path in mail.paths))


asyncio.run(main())
