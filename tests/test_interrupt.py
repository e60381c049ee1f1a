"""Ctrl-C at the worst moment: between the last octet and its reply, in the caller's own thread."""

import signal
import threading
from contextlib import suppress

import pytest

from smtpkit import Settled, SyncClient
from smtpkit.testing import Occurrence, Script, Server

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"


def interrupt(occurrence: Occurrence) -> str:
    """The server has the mail, and somebody presses Ctrl-C."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    return "250 2.0.0 ok"


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals to a thread are POSIX's")
@pytest.mark.parametrize("tls", ["none", "starttls"])
def test_ctrl_c_behind_the_last_octet_is_in_doubt_or_accepted(tls: str) -> None:
    """The verdict told before KeyboardInterrupt goes on never denies a mail that the server has."""
    script = Script(replies={"END": interrupt}, tls="starttls" if tls == "starttls" else "none")
    with Server(script) as server:
        context = server.client_context() if tls == "starttls" else None
        for _ in range(20):
            settled: list[Settled] = []
            client = SyncClient(server.url, ssl_context=context, tls="required" if context else "none")
            client.on(Settled, settled.append)
            server.clear()
            with suppress(KeyboardInterrupt):
                client.send(MAIL)
            server.wait_for(1)  # it has it a moment after it has sent the signal
            (told,) = settled
            assert {*told.outcome.accepted, *told.outcome.in_doubt} == {"bob@example.com"}
            client.close()
