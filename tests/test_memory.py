"""Mail data is streamed: a mail of 1 GiB takes no more memory than one of 1 KiB, whatever it comes from and goes over.

Each mail is sent by a process of its own, so its peak is its own too, and comes from the kernel. In every KiB there is
a line end to mend and a dot to double. All nine took 70 s together: 115 to 209 MiB/s, client and server on a core
each; two and a half minutes where others wanted the cores too. The large mail took at most 1.7 MiB more.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import smtpkit
from smtpkit.testing import Script, Server
from tests import memory_child
from tests.memory_child import CHUNK, MENDED

BLOCKS = 1024 * 1024  # of 1 KiB
MOST = 8 * 1024  # KiB that the large mail may take more than the small one
SCRIPT = Script(extensions=("PIPELINING", "SIZE", "8BITMIME"), keep="digest")

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the kernel tells no peak of memory")  # noqa: PTH110


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, Path]]:
    """By the number of their blocks, a small and a large file."""
    folder = tmp_path_factory.mktemp("memory")
    found = {1: folder / "small.eml", BLOCKS: folder / "large.eml"}
    for blocks, path in found.items():
        with path.open("wb") as file:
            file.writelines(memory_child.pieces(blocks))
    yield found
    for path in found.values():
        path.unlink()


@pytest.fixture(scope="module")
def digests() -> dict[int, str]:
    """By the number of blocks, the digest of what has to arrive."""
    large, chunk = hashlib.sha256(), MENDED * CHUNK
    for _ in range(BLOCKS // CHUNK):
        large.update(chunk)
    return {1: hashlib.sha256(MENDED).hexdigest(), BLOCKS: large.hexdigest()}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("source", ["path", "file", "iterable"])
@pytest.mark.parametrize("stream", ["asyncio", "trio", "blocking"])
def test_one_gibibyte(files: dict[int, Path], digests: dict[int, str], stream: str, source: str) -> None:
    """A mail of 1 GiB arrives whole, and its sender needs at most 8 MiB more than for one of 1 KiB."""
    peaks = {}
    with Server(SCRIPT) as server:
        for number, (blocks, path) in enumerate(files.items(), 1):
            answer = subprocess.run(
                [sys.executable, memory_child.__file__, server.url, stream, source, path, str(blocks)],
                env={**os.environ, "PYTHONPATH": str(Path(smtpkit.__file__).parents[1])},
                capture_output=True,
                text=True,
                check=False,
            )
            assert (answer.returncode, answer.stderr) == (0, "")
            peak, seconds = answer.stdout.split()
            peaks[blocks] = int(peak)
            print(f"{stream}, {source}: {peak} KiB, {blocks / 1024 / float(seconds):.0f} MiB/s")  # noqa: T201
            assert len(server.received) == number
            assert server.received[-1].sha256 == digests[blocks]
    assert all(not session.errors for session in server.sessions)
    assert peaks[BLOCKS] - peaks[1] <= MOST
