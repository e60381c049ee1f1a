"""Many mails: the next one leaves before the last one is answered, and each gets its outcome.

Over as many sessions as pay, which on loopback is one; ``sessions=1`` keeps the mails in their order anywhere.
"""

import asyncio
from collections.abc import AsyncIterator

import smtpkit
from smtpkit.testing import Script, Server


async def letters() -> AsyncIterator[smtpkit.Message]:
    """What is to be sent, as it comes out of a database: no more of it is in memory than the window holds."""
    for number in range(200):
        to = "nobody@example.org" if number == 100 else f"user{number}@example.org"
        yield smtpkit.Message(sender="news@example.com", to=to, subject="News", text=f"Letter {number}")


async def main() -> None:
    """Send all; a refused recipient is an outcome and stops nobody."""
    script = Script(replies={"RCPT:nobody@example.org": "550 5.1.1 no such user"})
    with Server(script) as server:
        async with smtpkit.Client(server.url) as client, client.send_many(letters(), window=16) as outcomes:
            async for outcome in outcomes:
                if outcome.error is not None:
                    print(f"{outcome.item.to}: {outcome.error}")
        print(f"{len(server.received)} mails arrived")


asyncio.run(main())
