"""The transcripts, each played purely, octet by octet, and over sockets through every stream."""

import time

import anyio
import pytest

import tests.player
from smtpkit.options import Limits
from smtpkit.session import World
from smtpkit.sync_client import drive
from smtpkit.transport.connect import connect, connect_blocking, run_in_worker, run_inline
from tests.player import FOLDER, Transcript, play_in_memory, play_over_socket

NAMES = sorted(file.stem for file in FOLDER.glob("*.txt"))

every_transcript = pytest.mark.parametrize("name", NAMES)


@pytest.fixture
def anyio_backend() -> str:
    """Asyncio has a test of its own, over its own stream."""
    return "trio"


@pytest.fixture(autouse=True)
def _short_farewell(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silent server costs a test little."""
    monkeypatch.setattr(Limits, "farewell", 0.2)


@pytest.fixture(autouse=True)
def _nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """The nonce of each exchange is that of the example in RFC 5802 section 5."""
    monkeypatch.setattr("secrets.token_urlsafe", lambda _: "fyko+d2lbbFgONRv9qkxdawL")


async def nap() -> None:
    """Let a loop's other tasks, and the server's thread, run."""
    await anyio.sleep(0.001)


async def doze() -> None:
    """Let the server's thread run."""
    time.sleep(0.001)  # noqa: ASYNC251 - the caller blocks anyway


def test_there_are_enough() -> None:
    """There are 60 transcripts at least, and each begins with a sentence that says what it shows."""
    assert len(NAMES) >= 60
    for name in NAMES:
        first = (FOLDER / f"{name}.txt").read_text(encoding="utf-8").split("\n\n")[0]
        assert all(line.startswith("# ") for line in first.splitlines()), name
        assert first.endswith("."), name


@every_transcript
def test_purely(name: str) -> None:
    """The core alone says and understands what the transcript has, without a loop, a socket or a clock."""
    drive(play_in_memory(Transcript.of(name), by_octet=False))


@every_transcript
def test_octet_by_octet(name: str) -> None:
    """How the server's octets are split changes nothing."""
    drive(play_in_memory(Transcript.of(name), by_octet=True))


@every_transcript
@pytest.mark.asyncio
async def test_over_asyncio(name: str) -> None:
    """The same over a real socket, through asyncio's stream."""
    await play_over_socket(Transcript.of(name), World(connect, run_in_worker, time.monotonic), nap)


@every_transcript
@pytest.mark.anyio
async def test_over_trio(name: str) -> None:
    """The same over a real socket, through anyio's stream on trio."""
    await play_over_socket(Transcript.of(name), World(connect, run_in_worker, time.monotonic), nap)


@every_transcript
def test_over_blocking_socket(name: str) -> None:
    """The same over a real socket, in the caller's thread."""
    drive(play_over_socket(Transcript.of(name), World(connect_blocking, run_inline, time.monotonic), doze))


OPENING = (
    "open smtp://mail.example\nS: 220 mail.example\nC: EHLO client.example\nS: 250 mail.example\n= open\n= in step\n"
)
ERRORS = {
    "another command": ("noop\nC: QUIT\nS: 221 bye\n= reply 221 bye\n= in step\n", "said     b'NO"),
    "nothing expected": ("noop\n= reply 250\n= in step\n", "NOOP"),
    "a command missing": ("noop\nC: NOOP\nS: 250 ok\nC: QUIT\nS: 221 bye\n= reply 250 ok\n= in step\n", "QUIT"),
    "too late": ("noop\nC: NOOP\nC: NOOP\nS: 250 ok\nS: 250 ok\n= reply 250 ok\n= in step\n", "NOOP"),
    "another outcome": ("noop\nC: NOOP\nS: 250 ok\n= reply 250 fine\n= in step\n", "noop"),
    "another state": ("noop\nC: NOOP\nS: 250 ok\nS: 250 ok\n= reply 250 ok\n= in step\n", "noop"),
}


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("where", ["memory", "socket"])
def test_the_player_notices(error: str, where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transcript that does not agree with what the client does fails, and the failure names the line or the act."""
    monkeypatch.setattr(tests.player, "PATIENCE", 0.2)
    text, told = ERRORS[error]
    transcript = Transcript.read(OPENING + text, "a transcript")
    world = World(connect_blocking, run_inline, time.monotonic)
    playing = (
        play_in_memory(transcript, by_octet=False) if where == "memory" else play_over_socket(transcript, world, doze)
    )
    with pytest.raises(AssertionError) as failure:
        drive(playing)
    assert told in str(failure.value)
