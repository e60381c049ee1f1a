"""Servers that cost little, each a process of its own on loopback: the C sink, Postfix's, and one in Python for TLS.

They accept all and keep nothing. Each ends with the block it was started for, or with its parent.
"""

import atexit
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import smtpkit.testing

HERE = Path(__file__).parent
EXTENSIONS = "PIPELINING,SIZE,8BITMIME,SMTPUTF8,DSN"
LIMIT = 600  # seconds that a server may live
PIECE = 262_144  # octets


class NotThereError(Exception):
    """What a row needs is not on this machine, or not in the library yet; the words say what."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where it listens; when its block has ended, ``counted`` holds what it got, where it counts."""

    port: int
    counted: dict[str, Any] = field(default_factory=dict)


@cache
def _built() -> str:
    """The C sink, built when it is first needed; it goes when this process does."""
    compiler = shutil.which("gcc")
    if compiler is None:
        raise NotThereError("no gcc")
    folder = tempfile.TemporaryDirectory(prefix="smtpkit-sink-")
    atexit.register(folder.cleanup)
    program = f"{folder.name}/sink"
    subprocess.run([compiler, "-O2", "-Wall", "-o", program, HERE / "sink.c"], check=True, timeout=120)
    return program


@contextmanager
def _started(core: int, *command: str, told: bool = True) -> Iterator["subprocess.Popen[str]"]:
    """A process on that core, for a block. ``told``: it writes where it listens, and ends with its input."""
    pipe = subprocess.PIPE if told else None
    words = ["taskset", "-c", str(core), "timeout", str(LIMIT), *command]
    process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


def _port(process: "subprocess.Popen[str]") -> int:
    assert process.stdout is not None
    return int(process.stdout.readline())


@contextmanager
def sink(core: int, *, chunking: bool = False, latency: float = 0, trace: bool = False) -> Iterator[Server]:
    """The C sink. ``latency``: seconds until a batch of replies is sent; ``trace``: it tells when octets came."""
    extensions = EXTENSIONS + (",CHUNKING" if chunking else "")
    command = [_built(), extensions, str(round(latency * 1e6)), *(["trace"] if trace else [])]
    with _started(core, *command) as process:
        server = Server(_port(process))
        yield server
        server.counted.update(json.loads(process.communicate(timeout=20)[0]))


@contextmanager
def postfix_sink(core: int) -> Iterator[Server]:
    """Postfix's ``smtp-sink``; it does not count."""
    program = shutil.which("smtp-sink", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise NotThereError("no smtp-sink")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    user = ["-u", "postfix"] if os.geteuid() == 0 else []
    with _started(core, program, *user, f"127.0.0.1:{port}", "1024", told=False):
        _wait(port)
        yield Server(port)


@contextmanager
def tls_sink(core: int) -> Iterator[Server]:
    """Lock-step SMTP in TLS from the first octet, in Python."""
    with _started(core, sys.executable, "-m", "tests.benchmarks.servers") as process:
        yield Server(_port(process))


def _wait(port: int) -> None:
    """Until it listens."""
    for seconds in (0.01, 0.1, 0.5, 2, 5):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(seconds)
    raise NotThereError("smtp-sink does not listen")


def _serve_tls() -> None:
    """One session after the other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    folder = Path(smtpkit.testing.__file__).parent
    context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        threading.Thread(target=_end_with_input, daemon=True).start()
        while True:
            with suppress(OSError), context.wrap_socket(listener.accept()[0], server_side=True) as stream:
                _session(stream)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _session(stream: ssl.SSLSocket) -> None:
    buffer = memoryview(bytearray(PIECE))
    stream.sendall(b"220 sink.example ESMTP\r\n")
    while got := stream.recv_into(buffer):
        verb = bytes(buffer[:4]).upper()
        stream.sendall(b"354 Go on\r\n" if verb == b"DATA" else b"250 2.0.0 Ok\r\n")
        if verb == b"QUIT":
            return
        if verb == b"DATA":
            tail = b""
            while tail[-5:] != b"\r\n.\r\n" and (got := stream.recv_into(buffer)):
                tail = tail[-5:] + bytes(buffer[max(0, got - 5) : got])
            stream.sendall(b"250 2.0.0 Ok\r\n")


if __name__ == "__main__":
    _serve_tls()
