"""Some recipients are refused, all are refused, or nobody knows: what each looks like."""

import asyncio

import smtpkit
from smtpkit.testing import Script, Server

UNKNOWN = Script(replies={"RCPT:nobody@example.org": "550 5.1.1 no such mailbox"})


async def main() -> None:
    """Send to one who exists and one who does not, then only to the latter."""
    with Server(UNKNOWN) as server:
        async with smtpkit.Client(server.url) as client:
            for recipients in (["bob@example.org", "nobody@example.org"], ["nobody@example.org"]):
                message = smtpkit.Message(sender="ann@example.com", to=recipients, subject="Hello", text="Hello!")
                try:
                    outcome = await client.send(message)
                except smtpkit.InDoubt as error:
                    print("it may have arrived; sending it again may make a second copy:", error)
                except smtpkit.SMTPError as error:
                    print("nobody gets it:", error)
                    print("worth another try later:", error.transient)
                else:
                    print("accepted:", *outcome.accepted)
                    for path, reply in outcome.refused.items():
                        print("refused:", path, "because", reply)


asyncio.run(main())
