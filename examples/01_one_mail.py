"""One mail from asynchronous code."""

import asyncio

import smtpkit
from smtpkit.testing import Server


async def main() -> None:
    """Send it, and print who gets it."""
    with Server() as server:  # yours is a url such as "submission://user:password@mail.example.com"
        message = smtpkit.Message(
            sender="Ann <ann@example.com>", to="bob@example.org", subject="Lunch?", text="Are you free at noon?"
        )
        outcome = await smtpkit.send(message, url=server.url)
    print("accepted for", *outcome.accepted)
    print("the server says", outcome.reply)


asyncio.run(main())
