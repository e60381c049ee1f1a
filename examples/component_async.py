"""The documented SMTP class with awaited methods, its seven events as one async iterator."""

import asyncio

import smtpkit
from smtpkit.component.notices import ConnectionStatus, PITrail
from smtpkit.testing import Server


async def main() -> None:
    """Send two mails over one connection, while a task shows what happens."""
    async with Server() as server:
        smtp = smtpkit.AsyncSMTP()
        smtp.mail_server, smtp.mail_port = server.host, server.port
        smtp.from_, smtp.subject = "ann@example.com", "Two mails, one connection"

        async with smtp.events() as events:

            async def show() -> None:
                async for event in events:
                    match event:
                        case ConnectionStatus(connection_event=what):
                            print("*", what)
                        case PITrail(direction=direction, message=message):
                            print("S:" if direction else "C:", message)

            watching = asyncio.create_task(show())
            async with smtp:
                await smtp.connect()
                for name in ("bob", "cy"):
                    smtp.send_to = f"{name}@example.org"
                    await smtp.send()
            await watching
        print(f"{len(server.received)} mails over {len(server.sessions)} connection")


if __name__ == "__main__":
    asyncio.run(main())
