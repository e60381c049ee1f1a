"""Steps: the few that hold something, and what Lost makes of the server's last words."""

import pytest

from smtpkit.errors import ChannelLost, Refused, ServiceClosing, SMTPError
from smtpkit.protocol.command import Noop, Quit
from smtpkit.protocol.mail_data import MailData
from smtpkit.protocol.steps import Hear, Lost, Pass, Run, Say, Secure, Transfer, Transferred
from tests.driver import reply

WORDS: list[tuple[tuple[str, ...], type[SMTPError], int | None]] = [
    ((), ChannelLost, None),
    (("250 ok",), ChannelLost, None),
    (("354 go",), ChannelLost, None),
    (("421 bye",), ServiceClosing, 421),
    (("552 too much",), Refused, 552),
    (("250 ok", "451 later", "421 bye"), Refused, 451),
    (("421 bye", "552 too much"), ServiceClosing, 421),
]


@pytest.mark.parametrize(("words", "kind", "code"), WORDS)
def test_last_words(words: tuple[str, ...], kind: type[SMTPError], code: int | None) -> None:
    """The first negative of the server's last words is the error; without one it is what ended the channel."""
    cause = ChannelLost("cut")
    lost = Lost(cause, spoken=True, last_words=tuple(map(reply, words)))
    verdict = lost.verdict
    assert type(verdict) is kind
    assert (verdict is cause) == (code is None)
    assert getattr(getattr(verdict, "reply", None), "code", None) == code


def test_steps() -> None:
    """Say holds commands in order; a transfer is in DATA form, whole and in step unless it says otherwise."""
    noop, quits, data = Noop(), Quit(), MailData.of(b"")
    assert Say(noop, quits).commands == (noop, quits)
    assert Transfer(data) == Transfer(data, chunked=False, due=1)
    assert Transferred(2) == (2, True, True)
    assert Run(int).function() == 0
    assert not any(hasattr(step, "__dict__") for step in (Say(), Hear(), Pass(), Secure(), Transfer(data), Run(int)))
