"""Three ways to use the component: blocking, on asyncio and on trio; a test is one coroutine for all."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from smtpkit import SMTP, AsyncSMTP
from smtpkit.sync_client import drive
from smtpkit.testing import Server

WAYS = pytest.mark.parametrize("way", ["blocking", "asyncio", "trio"])


def make(way: str, server: Server | None, **keywords: Any) -> Any:
    """A component that could send to that server."""
    smtp: Any = SMTP(**keywords) if way == "blocking" else AsyncSMTP(**keywords)
    if server is not None:
        smtp.mail_server, smtp.mail_port = server.host, server.port
    smtp.from_, smtp.send_to, smtp.message_text = "Ann <ann@example.com>", "bob@example.com", "Hello\r\n"
    return smtp


async def call(method: Callable[..., Any], *arguments: Any) -> Any:
    """Call a method, and wait for it if it must be waited for."""
    result = method(*arguments)
    return await result if inspect.isawaitable(result) else result


def run(way: str, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a scenario in one of the ways."""

    async def whole() -> None:
        await scenario()

    if way == "blocking":
        drive(whole())
    elif way == "asyncio":
        asyncio.run(whole())
    else:
        trio.run(whole)
