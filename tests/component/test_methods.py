"""How the methods run, in the three ways: handlers, being busy, interruption, errors, commands."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from smtpkit import SMTP, AsyncSMTP, ComponentError
from smtpkit.component import notices
from smtpkit.testing import Fault, Occurrence, Script, Server
from tests.component.ways import WAYS, call, make, run


@WAYS
def test_a_mail(way: str) -> None:
    """A mail goes out, its outcome is returned, and the last reply is kept."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            outcome = await call(smtp.send)
            assert outcome.accepted == ("bob@example.com",)
            assert smtp.last_reply == "221 2.0.0 Bye"
            assert smtp.idle
            assert not smtp.connected

        run(way, scenario)
        assert server.received[0].octets.endswith(b"\r\n\r\nHello\r\n")
        assert server.sessions[0].errors == []


@WAYS
def test_context_manager(way: str) -> None:
    """Leaving the block says QUIT."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            if isinstance(smtp, SMTP):
                with smtp:
                    smtp.connect()
            else:
                async with smtp:
                    await smtp.connect()
            assert not smtp.connected

        run(way, scenario)
        assert server.sessions[0].said("C")[-1] == b"QUIT"


@WAYS
def test_wrong_states(way: str) -> None:
    """What cannot be now, or lacks a property, is an error with a number of its own, before anything is sent."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.mail_server = ""
            await fails(163, smtp.connect)
            smtp.mail_server, smtp.from_ = server.host, ""
            await fails(164, smtp.send)
            smtp.from_, smtp.send_to = "ann@example.com", ""
            await fails(165, smtp.send)
            await fails(212, smtp.set_command, "NOOP")
            smtp.send_to = "no address"
            await fails(168, smtp.send)
            await call(smtp.connect)
            await fails(104, smtp.connect)
            await call(smtp.disconnect)
            smtp.mail_port = 1
            await fails(10061, smtp.connect)
            smtp.user, smtp.mail_port = "ann", server.port
            await fails(168, smtp.connect)
            smtp.password = "s3cret"
            await fails(270, smtp.connect)
            smtp.allow_extensions = False
            await fails(167, smtp.connect)

        run(way, scenario)
        assert server.received == []


async def fails(code: int, method: Callable[..., Any], *arguments: Any) -> ComponentError:
    """The error of a method that fails with that code."""
    with pytest.raises(ComponentError) as caught:
        await call(method, *arguments)
    assert caught.value.code == code, caught.value
    return caught.value


@WAYS
def test_errors_say_why(way: str) -> None:
    """The server's reply, the outcome and the library's error are in the component's."""
    with Server(Script(replies={"END": "554 5.7.1 no"})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            error = await fails(161, smtp.send)
            assert error.reply is not None
            assert error.reply.code == 554
            assert error.outcome is not None
            assert list(error.outcome.refused) == ["bob@example.com"]
            assert type(error.__cause__).__name__ == "DataRefused"
            assert error.args == (161, error.message)

        run(way, scenario)


@WAYS
def test_in_doubt(way: str) -> None:
    """Where the connection ends behind the last octet the error says that the mail may have been accepted."""
    with Server(Script(replies={"END": Fault("reset")})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            error = await fails(162, smtp.send)
            assert error.outcome is not None
            assert error.outcome.in_doubt == ("bob@example.com",)
            assert not smtp.connected

        run(way, scenario)


@WAYS
def test_handlers_are_not_reentrant_and_may_not_call(way: str) -> None:
    """A method called in a handler is busy; a property may be set there; events come one after the other."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            codes: list[int] = []
            depth = 0

            def handler(event: notices.PITrail) -> None:
                nonlocal depth
                depth += 1
                assert depth == 1
                assert not smtp.idle
                if isinstance(smtp, SMTP):
                    with pytest.raises(ComponentError) as caught:
                        smtp.connect()
                    codes.append(caught.value.code)
                smtp.subject = "set in a handler"
                depth -= 1

            smtp.on_pi_trail = handler
            await call(smtp.send)
            assert set(codes) <= {166}
            assert smtp.subject == "set in a handler"

        run(way, scenario)
        assert len(server.received) == 1


@WAYS
def test_a_failing_handler(way: str) -> None:
    """What a handler raises comes out of the method, after the mail: it was accepted once, and the next one goes."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)

            def handler(event: notices.Transfer) -> None:
                raise LookupError("mine")

            smtp.on_transfer = handler
            with pytest.raises(LookupError, match="mine"):
                await call(smtp.send)
            assert len(server.received) == 1
            smtp.on_transfer = None
            await call(smtp.send)
            assert len(server.received) == 2
            smtp.on_transfer = handler
            smtp.send_to = "bob@example.com"
            server.scripts = (Script(replies={"END": "554 no"}),)
            error = await fails(161, smtp.send)
            assert "LookupError" in error.__notes__[0]

        run(way, scenario)


@pytest.mark.parametrize("kind", [SMTP, AsyncSMTP])
def test_a_handler_is_a_plain_function(kind: type[SMTP | AsyncSMTP]) -> None:
    """A coroutine function is refused, since nobody would await it; None takes the handler away."""

    async def handler(event: object) -> None:
        """Never called."""

    smtp = kind()
    for wrong in (handler, 5):
        with pytest.raises(ComponentError, match="plain function"):
            smtp.on_error = wrong  # type: ignore[assignment]
    smtp.on_error = print
    assert smtp.on_error is print
    smtp.on_error = None
    assert smtp.on_error is None


@WAYS
def test_busy(way: str) -> None:
    """While a method runs, another one is told so at once, from another thread or task."""
    arrived, going = threading.Event(), threading.Event()

    def hold(occurrence: Occurrence) -> str:
        arrived.set()
        going.wait(10)
        return "250 ok"

    with Server(Script(replies={"MAIL": hold})) as server:
        smtp = make(way, server)
        codes: list[int] = []

        def second() -> None:
            arrived.wait(10)
            try:
                run(way, lambda: call(smtp.connect))
            except ComponentError as error:
                codes.append(error.code)
            going.set()

        thread = threading.Thread(target=second)
        thread.start()
        run(way, lambda: call(smtp.send))
        thread.join(10)
        assert codes == [166]
        assert len(server.received) == 1


@WAYS
@pytest.mark.parametrize("moment", ["greeting", "EHLO", "MAIL", "DATA", "END"])
def test_interrupt_from_another_thread(way: str, moment: str) -> None:
    """The method ends with 301 wherever it waits; in doubt is said where it is; the next method works."""
    arrived = threading.Event()

    def hold(occurrence: Occurrence) -> Fault:
        arrived.set()
        return Fault("stall")

    first = Script(greeting=hold) if moment == "greeting" else Script(replies={moment: hold})
    with Server(first, Script()) as server:
        smtp = make(way, server)

        def press() -> None:
            arrived.wait(10)
            smtp.interrupt()

        thread = threading.Thread(target=press)
        thread.start()
        with pytest.raises(ComponentError) as caught:
            run(way, lambda: call(smtp.send))
        thread.join(10)
        assert caught.value.code == 301
        outcome = caught.value.outcome
        in_doubt = outcome.in_doubt if outcome is not None else ()
        assert in_doubt == (("bob@example.com",) if moment == "END" else ())
        assert not smtp.connected
        assert smtp.idle
        run(way, lambda: call(smtp.send))
        assert len(server.received) == 1


@WAYS
def test_interrupt_in_a_handler(way: str) -> None:
    """A handler may end its method, in the middle of a mail; that mail did not arrive."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.message_text = ("x" * 78 + "\r\n") * 200_000
            seen: list[int] = []

            def handler(event: notices.Transfer) -> None:
                seen.append(event.percent_done)
                smtp.interrupt()
                smtp.interrupt()

            smtp.on_transfer = handler
            error = await fails(301, smtp.send)
            assert error.outcome is not None
            assert not error.outcome.accepted
            assert not error.outcome.in_doubt
            assert seen[0] < 100
            smtp.on_transfer = None
            smtp.message_text = "short"
            await call(smtp.send)

        run(way, scenario)
        assert len(server.received) == 1


@WAYS
def test_interrupt_with_nothing_running(way: str) -> None:
    """It does nothing, and what comes after is not interrupted."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            smtp.interrupt()
            await call(smtp.connect)
            smtp.interrupt()
            await call(smtp.send)
            await call(smtp.disconnect)

        run(way, scenario)
        assert len(server.received) == 1


@WAYS
def test_verify_and_expand(way: str) -> None:
    """Each connects by itself; an Expand event for each member; a no is an error, 252 is none."""
    replies = {
        "VRFY:bob": "252 2.1.5 perhaps",
        "VRFY:eve": "550 5.1.1 no",
        "EXPN:list": "250-Ann <ann@example.com>\n250 <bob@example.com>",
        "EXPN:eve": "550 5.1.1 no",
    }
    with Server(Script(replies=replies)) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            members: list[str] = []
            last: list[str] = []
            smtp.on_expand = lambda e: members.append(e.address)
            smtp.on_pi_trail = lambda e: last.append(e.message)
            await call(smtp.verify, "bob")
            assert "252 2.1.5 perhaps" in last
            await fails(161, smtp.verify, "eve")
            await call(smtp.connect)
            await call(smtp.expand, "list")
            assert smtp.last_reply == "250-Ann <ann@example.com>\r\n250 <bob@example.com>"
            assert members == ["Ann <ann@example.com>", "<bob@example.com>"]
            await fails(161, smtp.expand, "eve")
            assert smtp.connected
            await call(smtp.disconnect)

        run(way, scenario)


@WAYS
@pytest.mark.parametrize(
    ("method", "verb"),
    [
        ("send_to_terminal_only", "SEND"),
        ("send_to_terminal_or_email", "SOML"),
        ("send_to_terminal_and_email", "SAML"),
    ],
)
def test_terminals(way: str, method: str, verb: str) -> None:
    """The mail begins with that verb where the server has it; else the error names it, and nothing is sent."""
    script = Script(
        extensions=("SEND", "SOML", "SAML"),
        replies={verb: "250 ok", "RCPT": "250 ok", "DATA": "354 go", "END": "250 ok"},
    )
    with Server(script, Script()) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await call(getattr(smtp, method))
            error = await fails(167, getattr(smtp, method))
            assert verb in error.message

        run(way, scenario)
        assert server.sessions[0].said("C")[1].startswith(f"{verb} FROM:<ann@example.com>".encode())
        assert len(server.sessions[1].said("C")) == 2


@WAYS
def test_do_events_notices_the_end(way: str) -> None:
    """A connection at rest that the server has left is no connection any more."""
    with Server(
        Script(early={"EHLO": "421 4.3.2 bye"}, delay={"early": 0.05}, close_after=frozenset({"early"}))
    ) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await call(smtp.connect)
            for _ in range(500):
                await call(smtp.do_events)
                if not smtp.connected:
                    break
                threading.Event().wait(0.01)
            assert not smtp.connected

        run(way, scenario)


@WAYS
def test_command(way: str) -> None:
    """A line of one's own: every reply is an answer, kept with its code; on AsyncSMTP it is awaited."""
    with Server(Script(replies={"HELP": "214-one\n214 two", "XTEST": "550 no"})) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await call(smtp.connect)
            await call(smtp.set_command, "HELP")
            assert smtp.last_reply == "214-one\r\n214 two"
            await call(smtp.set_command, "XTEST a")
            assert smtp.last_reply == "550 no"
            if isinstance(smtp, AsyncSMTP):
                with pytest.raises(AttributeError, match="await set_command"):
                    smtp.command = "HELP"
            await call(smtp.disconnect)

        run(way, scenario)


def test_reset_headers() -> None:
    """What makes the header and the envelope is cleared; the body, the server and the login stay."""
    smtp = make("blocking", None)
    smtp.mail_server, smtp.user, smtp.subject, smtp.importance = "mail.example.com", "ann", "x", 1
    smtp.message_recipient_count, smtp.message_date, smtp.other_headers = 2, "", "X: 1"
    smtp.reset_headers()
    assert (smtp.from_, smtp.send_to, smtp.subject, smtp.importance, smtp.other_headers) == ("", "", "", 0, "")
    assert (smtp.message_recipient_count, len(smtp.message_recipient_address), smtp.message_date) == (0, 0, "*")
    assert (smtp.mail_server, smtp.user, smtp.message_text) == ("mail.example.com", "ann", "Hello\r\n")


@pytest.mark.parametrize("way", ["asyncio", "trio"])
def test_all_seven_events_as_one_iterator(way: str) -> None:
    """What the handlers are told comes out of ``events`` too, in order, until the component is closed."""
    replies = {"RCPT:no@example.com": "550 no", "EXPN": "250 <ann@example.com>"}
    with Server(Script(replies=replies)) as server:

        async def scenario() -> None:
            smtp = make(way, server)
            handled: list[object] = []
            for name in (
                "connection_status",
                "end_transfer",
                "error",
                "expand",
                "pi_trail",
                "start_transfer",
                "transfer",
            ):
                setattr(smtp, f"on_{name}", handled.append)
            async with smtp.events() as events:
                async with smtp:
                    smtp.b_cc = "no@example.com"
                    await smtp.send()
                    await smtp.expand("list")
                told = [event async for event in events]
            assert told == handled
            assert {type(event).__name__ for event in told} == {
                *("ConnectionStatus", "EndTransfer", "Error", "Expand", "PITrail", "StartTransfer", "Transfer"),
            }

        run(way, scenario)


@WAYS
def test_tls(way: str) -> None:
    """STARTTLS is used and verified where it is offered; a login needs it; a stranger's certificate is error 270."""
    with Server(Script(tls="starttls", users={"ann": "s3cret"})) as server:

        async def scenario() -> None:
            smtp = make(way, server, ssl_context=server.client_context())
            smtp.mail_server = "localhost"
            smtp.config("UseIPv6=False")
            smtp.user, smtp.password = "ann", "s3cret"
            told: list[str] = []
            smtp.on_connection_status = lambda e: told.append(e.connection_event)
            await call(smtp.send)
            assert "TLS handshake complete" in told
            stranger = make(way, server)
            stranger.mail_server = "localhost"
            await fails(270, stranger.send)

        run(way, scenario)
        assert server.received[0].secured
        assert server.received[0].user == "ann"
        assert len(server.received) == 1
