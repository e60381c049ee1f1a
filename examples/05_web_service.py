"""A web service: one client for its whole life, used by all requests at once.

The lifespan is what FastAPI, Starlette, Litestar and Quart call so; here a few lines stand for the framework.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import smtpkit
from smtpkit.testing import Server


@asynccontextmanager
async def lifespan(url: str) -> AsyncGenerator[smtpkit.Client]:
    """Open no connection until one is needed, at most four; close them when the service ends."""
    async with smtpkit.Client(url, connections=4) as client:
        yield client


async def sign_up(client: smtpkit.Client, address: str) -> None:
    """Handle a request."""
    await client.send(
        smtpkit.Message(sender="service@example.com", to=address, subject="Welcome", text="Nice to have you.")
    )


async def main() -> None:
    """Serve 100 requests at once."""
    with Server() as server:
        async with lifespan(server.url) as client, asyncio.TaskGroup() as requests:
            for number in range(100):
                requests.create_task(sign_up(client, f"user{number}@example.org"))
        print(f"{len(server.received)} mails over {len(server.sessions)} connections")


asyncio.run(main())
