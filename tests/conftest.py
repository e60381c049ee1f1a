"""What all tests share: both event loops, real servers, and watchers for leaks and for blocking calls."""

import asyncio
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from blockbuster import blockbuster_ctx

from tests.servers.aiosmtpd_server import AiosmtpdServer
from tests.servers.postfix import Postfix, why_not


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop of a test marked ``anyio``: each in turn."""
    backend: str = request.param
    return backend


@pytest.fixture
def memory_path() -> Iterator[Path]:
    """A folder as ``tmp_path`` is, in memory where there is such a place: nobody waits for a disk there."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="memory-", dir=memory if os.access(memory, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(autouse=True)
def _no_default_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sends to the server that whoever runs it has set as the default."""
    monkeypatch.delenv("SMTPKIT_URL", raising=False)


def _open_files() -> Counter[str]:
    """What this process has open, by name; sockets and pipes have a number of their own. Empty where not told."""
    found: Counter[str] = Counter()
    folder = "/proc/self/fd"
    for number in os.listdir(folder) if os.path.isdir(folder) else ():  # noqa: PTH208, PTH112  cheaper, for every test
        try:
            found[os.readlink(f"{folder}/{number}")] += 1  # noqa: PTH115
        except OSError:  # the one listdir had open
            continue
    return found


def _threads() -> set[threading.Thread]:
    """All threads but those that trio keeps for ten seconds in case of more work."""
    return {thread for thread in threading.enumerate() if not thread.name.startswith("Trio thread")}


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Fail a test that leaves open files or threads behind, once its event loop is closed."""
    files, threads = _open_files(), _threads()
    yield
    until = time.monotonic() + 2  # a thread told to end may take a moment
    while (left := (_open_files() - files, _threads() - threads)) != (Counter(), set()):
        if time.monotonic() > until:
            pytest.fail(f"left behind: {dict(left[0])} {left[1]}")
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def _no_tasks(request: pytest.FixtureRequest, no_leaks: None) -> None:
    """Fail a test marked ``asyncio`` that leaves tasks behind. Its loop begins after ``no_leaks``, and ends before."""
    if request.node.get_closest_marker("asyncio"):
        request.getfixturevalue("_no_tasks_left")


@pytest_asyncio.fixture
async def _no_tasks_left() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def _no_blocking(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a blocking call that the library makes in an asyncio loop."""
    if not any(request.node.get_closest_marker(mark) for mark in ("asyncio", "anyio")):
        yield
        return
    with blockbuster_ctx("smtpkit", excluded_modules=["smtpkit.testing"]):
        yield


@pytest.fixture(scope="session")
def postfix() -> Iterator[Postfix]:
    """A real Postfix, one for all tests: use a recipient of your own. Skips where there is none, but never in CI."""
    reason = why_not()
    if reason is not None:
        if os.environ.get("CI"):
            pytest.fail(f"CI needs Postfix: {reason}")
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix="postfix-", ignore_cleanup_errors=True) as directory,
        Postfix(Path(directory)) as server,
    ):
        yield server


@pytest.fixture
def aiosmtpd_server(tmp_path: Path) -> Iterator[AiosmtpdServer]:
    """An aiosmtpd of the test's own, with STARTTLS, AUTH and SMTPUTF8."""
    with AiosmtpdServer(tmp_path) as server:
        yield server


@pytest.fixture
def aiosmtpd_tls_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AiosmtpdServer]:
    """The same under implicit TLS."""
    with AiosmtpdServer(tmp_path_factory.mktemp("aiosmtpd"), implicit_tls=True) as server:
        yield server
