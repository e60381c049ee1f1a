"""The same client on trio, and all that happens as an async iterator."""

import trio

import smtpkit
from smtpkit.testing import Server


async def watch(client: smtpkit.Client, task_status: trio.TaskStatus[None]) -> None:
    """Print what is said until the mail's fate is known."""
    async with client.events() as events:
        task_status.started()
        async for event in events:
            match event:
                case smtpkit.CommandSent(text=text):
                    print("->", text)
                case smtpkit.ReplyReceived(reply=reply):
                    print("<-", reply)
                case smtpkit.Settled(outcome=outcome):
                    print("accepted for", *outcome.accepted)
                    return


async def main() -> None:
    """Send a mail and watch it go."""
    with Server() as server:
        async with smtpkit.Client(server.url) as client, trio.open_nursery() as nursery:
            await nursery.start(watch, client)
            await client.send(
                smtpkit.Message(sender="ann@example.com", to="bob@example.org", subject="Hi", text="From trio.")
            )


trio.run(main)
