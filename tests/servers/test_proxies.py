"""Real proxies, each by each mode of TLS and from each world: no greeting is lost, and every mail arrives."""

import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from smtpkit import Client, Connected, ProxyError, SyncClient
from smtpkit.options import OptionKeywords
from smtpkit.testing import Script, Server
from tests.servers.proxies import PASSWORD, USER, RealProxy, why_not

pytestmark = pytest.mark.servers

CONNECTIONS = 67  # for each world: 201 for each proxy and mode of TLS
AT_ONCE = 8
WORLDS = ("asyncio", "trio", "blocking")
ROWS = {  # the proxy, its URL, and what it is asked for
    "dante, socks4": ("dante", "socks4://{}", "127.0.0.1"),
    "dante, socks5": ("dante", "socks5://{}", "127.0.0.1"),
    "microsocks, socks5h": ("microsocks", f"socks5h://{USER}:{PASSWORD}@{{}}", "localhost"),
    "ssh -D, socks4a": ("ssh", "socks4a://{}", "localhost"),
    "ssh -D, socks5h": ("ssh", "socks5h://{}", "localhost"),
    "tinyproxy, http": ("tinyproxy", f"http://{USER}:{PASSWORD}@{{}}", "127.0.0.1"),
    "squid, http": ("squid", "http://{}", "127.0.0.1"),
}
TLS: dict[str, tuple[Any, Any]] = {  # the server's, the client's
    "none": ("none", "none"),
    "STARTTLS": ("starttls", "required"),
    "implicit": ("implicit", "implicit"),
}


@pytest.fixture(scope="module")
def proxy() -> Iterator[Callable[[str], RealProxy]]:
    """A real proxy of a kind, one for all tests. Skips where there is none, but never in CI."""
    running: dict[str, RealProxy] = {}
    with ExitStack() as stack:

        def started(kind: str) -> RealProxy:
            if kind not in running:
                reason = why_not(kind)
                if reason is not None and os.environ.get("CI"):
                    pytest.fail(f"CI needs the proxies: {reason}")
                if reason is not None:
                    pytest.skip(reason)
                folder = tempfile.TemporaryDirectory(prefix=f"{kind}-", ignore_cleanup_errors=True)
                running[kind] = stack.enter_context(RealProxy(kind, Path(stack.enter_context(folder))))
            return running[kind]

        yield started


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Server]]:
    """A server for each mode of TLS."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(Server(Script(tls=mode))) for name, (mode, _) in TLS.items()}


def send_each(world: str, url: str, options: OptionKeywords, count: int) -> list[str]:
    """Send so many mails, each over a connection of its own. Returns where each was connected to."""
    told: list[str] = []

    def hear(event: Connected) -> None:
        told.append(event.address)

    def mail(number: int) -> bytes:
        return f"Subject: {number}\r\n\r\nThrough a proxy.\r\n".encode()

    async def send(number: int, places: anyio.CapacityLimiter) -> None:
        async with places, Client(url, **options) as client:
            client.on(Connected, hear)
            await client.send(mail(number), sender="ann@a.test", recipients="bob@b.test")

    async def send_all() -> None:
        places = anyio.CapacityLimiter(AT_ONCE)
        async with anyio.create_task_group() as tasks:
            for number in range(count):
                tasks.start_soon(send, number, places)

    def send_blocking(number: int) -> None:
        with SyncClient(url, **options) as client:
            client.on(Connected, hear)
            client.send(mail(number), sender="ann@a.test", recipients="bob@b.test")

    if world == "blocking":
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(send_blocking, range(count)))
    else:
        anyio.run(send_all, backend=world)
    return told


def failure(world: str, url: str, options: OptionKeywords) -> ProxyError:
    """The error of a connection."""

    async def within() -> None:
        async with Client(url, **options) as client:
            await client.noop()

    def blocking() -> None:
        with SyncClient(url, **options) as client:
            client.noop()

    with pytest.raises(ProxyError) as caught:
        blocking() if world == "blocking" else anyio.run(within, backend=world)
    return caught.value


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("mode", TLS)
@pytest.mark.parametrize("row", ROWS)
def test_no_greeting_is_lost(
    row: str,
    mode: str,
    world: str,
    *,
    proxy: Callable[[str], RealProxy],
    servers: dict[str, Server],
    tables: dict[str, dict[tuple[str, str], str]],
) -> None:
    """Many connections through a real proxy, some at a time: each hears its greeting, and its mail arrives."""
    kind, form, host = ROWS[row]
    server, real = servers[mode], proxy(kind)
    server.clear()
    options: OptionKeywords = {
        "proxy": form.format(f"127.0.0.1:{real.port}"),
        "tls": TLS[mode][1],
        "connect": 10,
    }
    if mode != "none":
        options |= {"ssl_context": server.client_context(), "tls_name": "localhost"}
    began = time.monotonic()
    told = send_each(world, f"smtp://{host}:{server.port}", options, CONNECTIONS)
    took = time.monotonic() - began
    assert told == [f"127.0.0.1:{real.port}"] * CONNECTIONS
    subjects = sorted(int(received.message()["Subject"]) for received in server.received)
    assert subjects == list(range(CONNECTIONS))
    assert not any(session.errors for session in server.sessions)
    table = tables.setdefault("proxies: connections, each with its greeting and a mail that arrived", {})
    table[row, f"{mode}, {world}"] = f"{CONNECTIONS} in {took:.1f} s"


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(
    ("kind", "form"),
    [
        ("microsocks", "socks5h://tester:wr0ng@{}"),
        ("microsocks", "socks5h://{}"),
        ("tinyproxy", "http://tester:wr0ng@{}"),
    ],
)
def test_wrong_login(world: str, kind: str, form: str, proxy: Callable[[str], RealProxy]) -> None:
    """A real proxy that refuses the login is a ProxyError about user and password, which does not show them."""
    with Server() as server:
        options: OptionKeywords = {"proxy": form.format(f"127.0.0.1:{proxy(kind).port}"), "tls": "none"}
        error = failure(world, server.url, options)
        assert "user and password" in str(error)
        assert "wr0ng" not in str(error)
        assert not error.transient
        assert not server.sessions


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("row", ROWS)
def test_server_that_is_not_there(world: str, row: str, proxy: Callable[[str], RealProxy]) -> None:
    """A server that the proxy cannot reach is a ProxyError that may be tried again."""
    kind, form, _ = ROWS[row]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free_port = listener.getsockname()[1]
    options: OptionKeywords = {"proxy": form.format(f"127.0.0.1:{proxy(kind).port}"), "tls": "none"}
    assert failure(world, f"smtp://127.0.0.1:{free_port}", options).transient
