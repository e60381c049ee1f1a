"""A Starlette application: one client for its whole life, a queue beside it, and what goes wrong as an HTTP status.

``POST /now`` answers when the mail server has answered; ``POST /later`` as soon as the mail is on the disk, from where
a worker in the lifespan's task group sends it, and sends it again. With FastAPI all but the routes is the same.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import smtpkit
from smtpkit.testing import Script, Server


async def letter(request: Request) -> smtpkit.Message:
    """Read who is to be welcomed."""
    to = str((await request.json()).get("to", ""))
    return smtpkit.Message(sender="service@example.com", to=to, subject="Welcome", text="Nice to have you.")


async def now(request: Request) -> JSONResponse:
    """Send a mail."""
    outcome = await request.app.state.client.send(await letter(request))
    return JSONResponse({"accepted": outcome.accepted})


async def later(request: Request) -> JSONResponse:
    """Have a mail sent."""
    await smtpkit.enqueue(request.app.state.letters, await letter(request))
    return JSONResponse({"queued": True}, status_code=202)


async def failed(_: Request, error: Exception) -> JSONResponse:
    """Say by the status whose fault it was, and whether to come again; no message is parsed for that."""
    match error:
        case smtpkit.SMTPError(transient=True):  # greylisting, no connection, a full disk
            status = 503
        case smtpkit.InvalidMail():  # no address, for example
            status = 422
        case smtpkit.RecipientsRefused():  # no such mailbox, for example
            status = 400
        case smtpkit.InDoubt():  # the mail may have been accepted: who asks again may have it sent twice
            status = 504
        case _:
            status = 502
    return JSONResponse({"error": str(error)}, status, {"Retry-After": "60"} if status == 503 else None)


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncGenerator[None]:
    """Connect when there is something to send; at the end let the worker finish what it is at."""
    async with smtpkit.Client(app.state.url, connections=4) as client, asyncio.TaskGroup() as tasks:
        worker = client.worker(app.state.letters)
        tasks.create_task(worker.watch(interval=0.5))
        app.state.client = client
        yield
        worker.stop(within=10)


def service(url: str, letters: str) -> Starlette:
    """Make the application; ``url`` is the mail server's, ``letters`` a directory of its own."""
    routes = [Route("/now", now, methods=["POST"]), Route("/later", later, methods=["POST"])]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={smtpkit.SMTPError: failed})
    app.state.url, app.state.letters = url, letters
    return app


async def main() -> None:
    """Make some requests, without a port."""
    script = Script(
        replies={
            "RCPT:nobody@example.org": "550 5.1.1 no such user",
            "RCPT:bob@example.org": ["450 4.2.0 come back later", "250 2.1.5 welcome"],
        }
    )
    with Server(script) as server, tempfile.TemporaryDirectory() as letters:
        app = service(server.url, letters)
        web = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
        async with app.router.lifespan_context(app), web:  # a web server does the first
            for path, to in [
                ("/now", "ann@example.org"),
                ("/now", "bob@example.org"),
                ("/now", "nobody@example.org"),
                ("/now", "no address"),
                ("/later", "bob@example.org"),
            ]:
                answer = await web.post(path, json={"to": to})
                print(path, to, "->", answer.status_code, answer.text, answer.headers.get("Retry-After", ""))
            await server.wait_for_async(2)
        print(f"{len(server.received)} mails: for {', '.join(mail.paths[0] for mail in server.received)}")


asyncio.run(main())
