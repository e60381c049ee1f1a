"""A real server that offers STARTTLS and cannot do it: the handshake fails, and nothing is said in clear instead."""

import os
import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import NoReturn

import anyio
import pytest

from smtpkit import Client, SyncClient, TLSError
from smtpkit.options import OptionKeywords, TLSMode
from tests.hostile import forms
from tests.peers import Behaviour, peer
from tests.servers.opensmtpd import OpenSMTPD, why_not

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
SECRET = "correct horse/battery+staple"

pytestmark = pytest.mark.servers


def _without(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(f"CI needs OpenSMTPD: {reason}")
    pytest.skip(reason)


@pytest.fixture(scope="module")
def opensmtpd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenSMTPD]:
    """A real OpenSMTPD. Skips where there can be none, but never in CI."""
    if (reason := why_not()) is not None:
        _without(reason)
    with ExitStack() as stack:
        try:
            server = stack.enter_context(OpenSMTPD(tmp_path_factory.mktemp("opensmtpd")))
        except RuntimeError as error:
            _without(str(error))
        yield server


def tap(port: int, heard: bytearray) -> Behaviour:
    """Pass all on to and from a port, and keep what the client says."""

    def behaviour(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port), 20) as server:
            other = {connection: server, server: connection}
            while True:
                for end in select.select(list(other), [], [], 20)[0]:
                    octets = end.recv(65536)
                    if not octets:
                        return
                    if end is connection:
                        heard.extend(octets)
                    other[end].sendall(octets)

    return behaviour


def by_loop(backend: str) -> Callable[[str, OptionKeywords], None]:
    """Send in an event loop."""

    def send(url: str, options: OptionKeywords) -> None:
        async def main() -> None:
            async with Client(url, **options) as client:
                await client.send(MAIL)

        anyio.run(main, backend=backend)

    return send


def blocking(url: str, options: OptionKeywords) -> None:
    """Send in the caller's thread."""
    with SyncClient(url, **options) as client:
        client.send(MAIL)


@pytest.mark.parametrize("send", [by_loop("asyncio"), by_loop("trio"), blocking], ids=["asyncio", "trio", "blocking"])
@pytest.mark.parametrize("mode", ["required", "opportunistic"])
def test_starttls_that_is_broken(
    opensmtpd: OpenSMTPD, mode: TLSMode, send: Callable[[str, OptionKeywords], None]
) -> None:
    """The handshake that fails is a TLSError within the limit, with a login or without; no word of the mail is said."""
    options: OptionKeywords = {"tls": mode, "connect": 20.0}
    if mode == "required":
        context = ssl.create_default_context(cafile=opensmtpd.authority)
        options |= {"user": "ann", "password": SECRET, "ssl_context": context}
    heard = bytearray()
    with peer(tap(opensmtpd.port, heard)) as port, pytest.raises(TLSError, match="handshake with localhost failed"):
        send(f"smtp://localhost:{port}", options)
    clear = bytes(heard).decode("latin-1")
    assert clear.startswith("EHLO ")
    assert "\r\nSTARTTLS\r\n" in clear
    assert not any(word in clear for word in ("AUTH", "MAIL", *forms(SECRET)))
