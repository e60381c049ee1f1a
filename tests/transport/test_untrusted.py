"""A certificate that does not verify: the caller's function decides, about that very certificate, once."""

import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
import trustme

from smtpkit import Client, Outcome, Secured, SyncClient, TimedOut, TLSError, Untrusted, UsageError
from smtpkit.options import OptionKeywords, TLSMode
from smtpkit.testing import Script, Server
from smtpkit.testing import Session as Seen
from smtpkit.transport.certificate import pins_of
from smtpkit.transport.tls import default_context

MAIL = b"From: ann@example.com\r\nTo: bob@example.com\r\n\r\nhello\r\n"
SECRET = "correct horse/battery+staple"
AUTHORITY = trustme.CA()


def issued(*names: str, issuer: trustme.CA = AUTHORITY) -> tuple[ssl.SSLContext, bytes]:
    """A server's context with a certificate for these names, and the certificate in DER."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf = issuer.issue_cert(*names)
    leaf.configure_cert(context)
    return context, ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


def script(mode: TLSMode, **more: Any) -> Script:
    return Script(tls="implicit" if mode == "implicit" else "starttls", users={"ann": SECRET}, **more)


def options(mode: TLSMode, policy: Callable[[Untrusted], bool], **more: Any) -> OptionKeywords:
    login: OptionKeywords = {"user": "ann", "password": SECRET, "tls": mode, "on_untrusted": policy, "timeout": 5.0}
    return {**login, **more}  # type: ignore[typeddict-item]  # a table of options


def sent(world: str, url: str, chosen: OptionKeywords, times: int = 1) -> tuple[list[Outcome], list[bool]]:
    """Send the mail so many times by one client; tell for each TLS that began whether the server was verified."""
    told: list[bool] = []

    async def main() -> list[Outcome]:
        async with Client(url, **chosen) as client:
            client.on(Secured, lambda event: told.append(event.verified))
            return [await client.send(MAIL) for _ in range(times)]

    if world != "blocking":
        return anyio.run(main, backend=world), told
    with SyncClient(url, **chosen) as client:
        client.on(Secured, lambda event: told.append(event.verified))
        return [client.send(MAIL) for _ in range(times)], told


def nothing_told(sessions: list[Seen]) -> None:
    """Neither in clear nor within TLS was there a login or a mail."""
    assert sessions
    for session in sessions:
        assert b"AUTH" not in session.octets_in
        assert b"MAIL" not in session.octets_in
        assert session.user is None


worlds = pytest.mark.parametrize("world", ["asyncio", "trio", "blocking"])
modes = pytest.mark.parametrize("mode", ["required", "implicit"])


@worlds
@modes
def test_accepted(world: str, mode: TLSMode) -> None:
    """The function sees what is shown and why it does not verify; its yes holds for the sessions to come, unasked."""
    context, der = issued("localhost")
    asked: list[Untrusted] = []

    def policy(untrusted: Untrusted) -> bool:
        asked.append(untrusted)
        within = server.sessions[-1].octets_in[len(server.sessions[-1].octets_in_clear) :]
        assert within == b"", "nothing was said within TLS before the decision"
        return True

    with Server(script(mode, close_after=frozenset({"END"})), ssl_context=context) as server:
        outcomes, told = sent(world, f"smtp://localhost:{server.port}", options(mode, policy), times=3)
    assert all(outcome.accepted for outcome in outcomes)
    assert [mail.user for mail in server.received] == ["ann"] * 3
    assert told == [True] * 3
    (question,) = asked
    assert (question.server_name, question.der, question.pins) == ("localhost", der, pins_of(der))
    assert "unable to get local issuer certificate" in question.reason
    assert (question.code, question.tls_version) == (20, "TLSv1.3")
    assert question.address == f"127.0.0.1:{server.port}"
    assert question.cipher.startswith("TLS_")
    assert repr(der) not in repr(question)


@worlds
@modes
def test_not_accepted(world: str, mode: TLSMode) -> None:
    """A no is the error of the verification, and names the certificate; nothing was told, and it is not asked again."""
    context, der = issued("localhost")
    asked: list[Untrusted] = []

    def policy(untrusted: Untrusted) -> bool:
        asked.append(untrusted)
        return False

    async def main() -> None:
        async with Client(url, **options(mode, policy)) as client:
            for _ in range(2):
                with pytest.raises(TLSError, match=r"cannot be trusted.*on_untrusted does not accept") as caught:
                    await client.send(MAIL)
                assert pins_of(der)[0] in str(caught.value)

    with Server(script(mode), ssl_context=context) as server:
        url = f"smtp://localhost:{server.port}"
        if world == "blocking":
            with SyncClient(url, **options(mode, policy)) as client:
                for _ in range(2):
                    with pytest.raises(TLSError, match=r"cannot be trusted.*on_untrusted does not accept"):
                        client.send(MAIL)
        else:
            anyio.run(main, backend=world)
    assert len(asked) == 1
    nothing_told(server.sessions)


class Interrupted(Exception):
    """What the function of a test raises."""


@worlds
@modes
def test_what_it_raises_comes_out(world: str, mode: TLSMode) -> None:
    """An exception of the function's own is raised as it is, and nothing was told."""

    def policy(_: Untrusted) -> bool:
        raise Interrupted

    with Server(script(mode), ssl_context=issued("localhost")[0]) as server, pytest.raises(Interrupted):
        sent(world, f"smtp://localhost:{server.port}", options(mode, policy))
    nothing_told(server.sessions)


@worlds
def test_an_answer_that_is_none(world: str) -> None:
    """A function that returns neither True nor False has not decided: a UsageError, and nothing was told."""
    with Server(script("required"), ssl_context=issued("localhost")[0]) as server:
        url = f"smtp://localhost:{server.port}"
        with pytest.raises(UsageError, match="must return True or False, not int"):
            sent(world, url, options("required", lambda _: 1))  # type: ignore[arg-type,return-value]
    nothing_told(server.sessions)


@worlds
@modes
def test_it_runs_under_the_connect_limit(world: str, mode: TLSMode) -> None:
    """A function that does not come to an end in time ends with the limit for connecting, whatever it says later."""
    done = threading.Event()

    def policy(_: Untrusted) -> bool:
        if world == "blocking":  # it holds the caller's own thread, and its yes comes too late
            time.sleep(0.5)
        return done.wait(20) or True

    if world == "blocking":
        done.set()
    with Server(script(mode), ssl_context=issued("localhost")[0]) as server:
        with pytest.raises(TimedOut) as caught:
            sent(world, f"smtp://localhost:{server.port}", options(mode, policy, connect=0.4))
        done.set()
    assert caught.value.limit == "connect"
    nothing_told(server.sessions)


@modes
def test_it_accepts_that_certificate_and_no_other(mode: TLSMode) -> None:
    """A yes to one certificate is none to the next: each is asked about, and one that is refused is refused."""
    (first, accepted), (second, refused) = issued("localhost"), issued("localhost")
    asked: list[bytes] = []

    def policy(untrusted: Untrusted) -> bool:
        asked.append(untrusted.der)
        return untrusted.der == accepted

    with (
        Server(script(mode, close_after=frozenset({"END"})), ssl_context=first) as server,
        SyncClient(f"smtp://localhost:{server.port}", **options(mode, policy)) as client,
    ):
        client.send(MAIL)
        server.ssl_context = second
        with pytest.raises(TLSError, match="on_untrusted does not accept"):
            client.send(MAIL)
        server.ssl_context = first
        client.send(MAIL)
    assert asked == [accepted, refused]
    assert len(server.received) == 2


def test_who_shows_another_certificate_at_the_second_connection() -> None:
    """What is asked about, and gone on with, is the certificate of the second connection, not that of the first."""
    (first, accepted), (second, shown) = issued("localhost"), issued("localhost")
    asked: list[bytes] = []

    def greeting(occurrence: Any) -> str:
        server.ssl_context = first if occurrence.session.number == 1 else second
        return "220 here"

    def policy(untrusted: Untrusted) -> bool:
        asked.append(untrusted.der)
        return untrusted.der == accepted

    with (
        Server(script("required", greeting=greeting), ssl_context=first) as server,
        pytest.raises(TLSError, match="on_untrusted does not accept"),
    ):
        sent("blocking", f"smtp://localhost:{server.port}", options("required", policy))
    assert asked == [shown]
    nothing_told(server.sessions)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_asked_once_by_many_at_a_time(backend: str) -> None:
    """Sessions that are opened at the same time ask once between them."""
    asked: list[Untrusted] = []

    def policy(untrusted: Untrusted) -> bool:
        asked.append(untrusted)
        time.sleep(0.05)
        return True

    async def main() -> None:
        url = f"smtp://localhost:{server.port}"
        async with Client(url, **options("required", policy)) as client, anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(client.send, MAIL)

    with Server(script("required", delay={"END": 0.1}), ssl_context=issued("localhost")[0]) as server:
        anyio.run(main, backend=backend)
    assert len(server.received) == 4
    assert len(asked) == 1


def test_a_certificate_that_verifies_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system's trust is enough the function has no say; a wrong name it may decide on."""
    asked: list[Untrusted] = []

    def policy(untrusted: Untrusted) -> bool:
        asked.append(untrusted)
        return True

    with AUTHORITY.cert_pem.tempfile() as file:
        monkeypatch.setenv("SSL_CERT_FILE", file)
        default_context.cache_clear()
        try:
            with Server(script("required"), ssl_context=issued("localhost")[0]) as server:
                sent("blocking", f"smtp://localhost:{server.port}", options("required", policy))
                assert not asked
                assert len(server.sessions) == 1
                sent("blocking", f"smtp://127.0.0.1:{server.port}", options("required", policy))
        finally:
            default_context.cache_clear()
    assert [untrusted.code for untrusted in asked] == [64]
    assert "IP address mismatch" in asked[0].reason
