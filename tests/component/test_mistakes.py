"""What a caller may get wrong: values of other types, secrets in the wrong place, copies, a forgotten await."""

import asyncio
import copy
import enum
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from smtpkit import SMTP, AsyncSMTP, ComponentError
from smtpkit.component.fields import Field
from smtpkit.testing import Server
from tests.component.ways import WAYS, call, make, run

SECRET = "AGFubgBzM2NyZXQ="


class Number:
    """An integer that is no int, as numpy's are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


class Level(enum.IntEnum):
    """An int with another face."""

    HIGH = 1


@pytest.mark.parametrize("row", [row for row in SMTP.rows() if isinstance(row, Field)], ids=lambda row: row.documented)
@pytest.mark.parametrize("wrong", [None, [b"1"], object, 1.0, float("nan")], ids=repr)
def test_no_row_takes_a_value_of_another_type(row: Field[Any], wrong: object) -> None:
    """It is error 168, which names the row; what was there stays."""
    smtp = SMTP()
    before = getattr(smtp, row.name)
    with pytest.raises(ComponentError, match=f"^{row.documented} must be") as caught:
        setattr(smtp, row.name, wrong)
    assert caught.value.code == 168
    assert getattr(smtp, row.name) == before


@pytest.mark.parametrize("kind", [SMTP, AsyncSMTP])
@pytest.mark.parametrize("wrong", [None, b"Timeout", 5], ids=repr)
def test_config_takes_a_text(kind: Any, wrong: object) -> None:
    """Anything else is error 168, and no error of Python's."""
    with pytest.raises(ComponentError, match="config takes a text") as caught:
        kind().config(wrong)
    assert caught.value.code == 168


@WAYS
@pytest.mark.parametrize("method", ["verify", "expand"])
@pytest.mark.parametrize("wrong", [None, b"bob", 5, "", "  ", "bob\r\nQUIT", "bob\0", "\ud800"], ids=ascii)
def test_an_address_that_is_none(way: str, method: str, wrong: object) -> None:
    """What VRFY or EXPN cannot ask for is error 168, nothing is asked, and the connection is still there."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await call(smtp.connect)
            with pytest.raises(ComponentError) as caught:
                await call(getattr(smtp, method), wrong)
            assert caught.value.code == 168
            await call(smtp.send)
            await call(smtp.disconnect)

        run(way, scenario)
        assert not [line for line in server.sessions[0].said("C") if line[:4] in {b"VRFY", b"EXPN"}]
        assert len(server.sessions) == 1


def test_whole_numbers_of_other_kinds() -> None:
    """What Python takes for an index is taken as the int that it is; True is none."""
    smtp: Any = SMTP()
    smtp.mail_port, smtp.importance, smtp.message_recipient_count = Number(2525), Level.HIGH, Number(1)
    smtp.message_recipient_type[0] = Number(2)
    assert [type(value) for value in (smtp.mail_port, smtp.importance, smtp.message_recipient_type[0])] == [int] * 3
    assert (smtp.mail_port, smtp.importance, smtp.message_recipient_type[0]) == (2525, 1, 2)
    smtp.allow_extensions = Number(0)
    assert smtp.allow_extensions is False
    for name in ("mail_port", "importance", "message_recipient_count"):
        with pytest.raises(ComponentError, match="True"):
            setattr(smtp, name, True)


def test_a_count_by_mistake_does_not_eat_the_memory() -> None:
    """A million recipients are the most."""
    smtp = SMTP()
    with pytest.raises(ComponentError, match="MessageRecipientCount must be"):
        smtp.message_recipient_count = 2**31 - 1
    assert len(smtp.message_recipient_address) == 0


def test_no_line_end_in_a_local_address() -> None:
    """The zone of an IPv6 address may be any text, but for controls."""
    with pytest.raises(ComponentError, match="LocalHost must be"):
        SMTP().local_host = "fe80::1%\r\neth0"


@WAYS
def test_a_login_by_command_is_shown_nowhere(way: str) -> None:
    """AUTH is refused, in whatever way it is written, and no error shows what followed it."""
    with Server() as server:

        async def scenario() -> None:
            smtp = make(way, server)
            await call(smtp.connect)
            for line in (f"AUTH PLAIN {SECRET}", f"auth\tplain\t{SECRET}", SECRET, f"AUTH PLAIN {SECRET}\r\n"):
                with pytest.raises(ComponentError) as caught:
                    await call(smtp.set_command, line)
                assert SECRET not in "".join((str(caught.value), repr(caught.value.__cause__), *caught.value.args[1:]))
                if not isinstance(smtp, SMTP):
                    with pytest.raises((AttributeError, ComponentError)) as refused:
                        smtp.command = line
                    assert SECRET not in str(refused.value)
            await call(smtp.disconnect)

        run(way, scenario)
        assert server.sessions[0].said("C")[1:] == [b"QUIT"]


def test_a_secret_for_the_firewall_is_not_shown() -> None:
    """FirewallData may hold the login for a proxy: an error tells what is wrong without it."""
    smtp = make("blocking", None)
    with pytest.raises(ComponentError, match="FirewallData must be") as caught:
        smtp.config(f"FirewallData=Proxy-Authorization: Basic {SECRET}\0")
    assert SECRET not in str(caught.value)
    smtp.mail_server, smtp.firewall_type, smtp.firewall_host = "mail.example.com", 1, "127.0.0.1"
    for text in (
        f"Proxy-Authorization Basic {SECRET}",
        f"X: 1\r\n\r\n{SECRET}",
        f"X: 1\rProxy-Authorization: {SECRET}",
    ):
        smtp.config(f"FirewallData={text}")
        with pytest.raises(ComponentError) as caught:
            smtp.connect()
        assert caught.value.code == 168
        assert SECRET not in str(caught.value)


@pytest.mark.parametrize("kind", [SMTP, AsyncSMTP])
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps], ids=["copy", "deepcopy", "pickle"])
def test_it_is_not_copied(kind: Callable[[], Any], way: Callable[[Any], object]) -> None:
    """A copy would share the connection and every property with the first: it is refused, with what to do."""
    with pytest.raises(TypeError, match="make another"):
        way(kind())


def test_static_types_of_methods() -> None:
    """An awaited method makes a task, and one that nobody awaits is an error; mypy would complain otherwise."""

    async def scenario() -> None:
        smtp = AsyncSMTP()
        task = asyncio.create_task(smtp.send())
        with pytest.raises(ComponentError):
            await task
        forgotten = smtp.send()
        forgotten.close()

    asyncio.run(scenario())


def test_static_types_of_access() -> None:
    """What can only be read or only be set is so for mypy too: it would complain of a remark without need."""
    smtp = SMTP()
    with pytest.raises(AttributeError, match="only be read"):
        smtp.message_headers_string = "x"  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="one by one"):
        smtp.message_recipient_address = ["bob@example.com"]  # type: ignore[assignment]
