"""BINARYMIME: attachments as they are, from a Message to what the server keeps, on the three streams."""

import os
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from smtpkit import Attachment, Client, InvalidMail, Message, SyncClient
from smtpkit.protocol.mail_data import MailData
from smtpkit.testing import Received, Script, Server
from tests.memory import Mail, Talk
from tests.memory import mail as prepared

if TYPE_CHECKING:
    from smtpkit.options import OptionKeywords

CONTENTS = [
    b"\r\n.\r\nMAIL FROM:<eve@evil.example>\r\n",
    b"\0\r\0\n\r\n\n\r.\n.\r\n",
    bytes(range(256)) * 300,
    b"BDAT 5 LAST\r\n",
    b"x" * 5000,
]
PICTURE = b"\x89PNG\r\n\x1a\n\0"
SPEAKING = ("PIPELINING", "8BITMIME", "CHUNKING", "BINARYMIME", "SMTPUTF8")


def message(folder: Path) -> Message:
    """A mail with these contents, from memory and from a file of some pieces."""
    (folder / "large.bin").write_bytes(os.urandom(300_000))
    attachments = [Attachment(octets, f"{number}.bin") for number, octets in enumerate(CONTENTS)]
    return Message(
        sender="Ann <ann@example.com>",
        to="bob@example.com",
        text="Grüße\n",
        html="<img src='cid:picture'>",
        attachments=[*attachments, folder / "large.bin", Attachment(PICTURE, "a.png", content_id="picture")],
    )


def found(mail: Received, folder: Path) -> None:
    """Every octet is there."""
    parsed = message_from_bytes(mail.octets, policy=policy.default)
    assert isinstance(parsed, EmailMessage)
    parts = [part.get_payload(decode=True) for part in parsed.iter_attachments()]
    assert parts == [*CONTENTS, (folder / "large.bin").read_bytes()]
    assert [part.get_payload(decode=True) for part in parsed.walk() if part["Content-ID"]] == [PICTURE]


def judge(server: Server, folder: Path, *, binary: bool) -> None:
    """One mail arrived, whole, in the form that was meant, and the client did nothing it must not do."""
    (mail,) = server.received
    assert [error for session in server.sessions for error in session.errors] == []
    assert mail.mail_parameters.get("BODY") == ("BINARYMIME" if binary else None)
    assert mail.chunked == binary
    assert (b"\0" in mail.octets) == binary
    found(mail, folder)


OFFERED = pytest.mark.parametrize(
    ("offered", "binary"),
    [
        (SPEAKING, True),
        (SPEAKING[1:4], True),
        (SPEAKING[:3], False),
        (("8BITMIME", "BINARYMIME"), False),
        ((), False),
    ],
    ids=["all", "no PIPELINING", "no BINARYMIME", "no CHUNKING", "none"],
)


@OFFERED
@pytest.mark.anyio
async def test_loops(anyio_backend: str, offered: tuple[str, ...], binary: bool, tmp_path: Path) -> None:  # noqa: FBT001  by name
    """On asyncio and on trio: as they are where both extensions are offered, else in base64; never refused."""
    with Server(Script(extensions=offered)) as server:
        async with Client(server.url, tls="none", binary=True) as client:
            await client.send(message(tmp_path))
        judge(server, tmp_path, binary=binary)


@OFFERED
def test_blocking(offered: tuple[str, ...], binary: bool, tmp_path: Path) -> None:  # noqa: FBT001  by name
    """In the caller's thread the same."""
    with Server(Script(extensions=offered)) as server:
        with SyncClient(server.url, tls="none", binary=True) as client:
            client.send(message(tmp_path))
        judge(server, tmp_path, binary=binary)


def test_only_when_asked_for(tmp_path: Path) -> None:
    """Without the option it is base64, whatever is offered; with BDAT too."""
    ways: tuple[OptionKeywords, ...] = ({"tls": "none"}, {"tls": "none", "chunking": "always"})
    for way in ways:
        with Server(Script(extensions=SPEAKING)) as server:
            with SyncClient(server.url, **way) as client:
                client.send(message(tmp_path))
            (mail,) = server.received
            assert "BODY" not in mail.mail_parameters
            assert mail.octets.isascii()
            found(mail, tmp_path)


def test_lmtp(tmp_path: Path) -> None:
    """LMTP has both extensions too."""
    with Server(Script(lmtp=True, extensions=SPEAKING)) as server:
        with SyncClient(server.url, tls="none", binary=True) as client:
            client.send(message(tmp_path))
        judge(server, tmp_path, binary=True)


def test_other_mail_goes_as_before() -> None:
    """The option changes nothing for a mail without such a form: no BODY, no BDAT, and NUL is refused."""
    talk = Talk(Script(extensions=SPEAKING), {"binary": True})
    talk.open()
    assert talk.send().accepted
    assert talk.received[0].mail_parameters == {}
    assert not talk.received[0].chunked
    with pytest.raises(InvalidMail, match="NUL"):
        prepared(b"a\0\r\n")


def test_a_mail_as_it_is_in_memory() -> None:
    """Octets that are raw are not mended and no dot is doubled: the server keeps what was told."""
    octets = b"Subject: x\r\n\r\n.a\n\0\r.\r\n.\r\n\xff"
    raw = MailData(lambda: [octets[:9], octets[9:]], size=len(octets), mended=True, raw=True)
    mail: Any = Mail(prepared().envelope, MailData(lambda: [b"x"], eight_bit=False, binary=lambda: raw))
    talk = Talk(Script(extensions=SPEAKING), {"binary": True})
    talk.open()
    assert talk.send(mail).accepted
    assert talk.received[0].octets == octets
    assert b"BDAT %d LAST\r\n" % len(octets) + octets in talk.stream.sent
