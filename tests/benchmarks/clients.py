"""The clients, ours and others: each measured in a process of its own, ``python -m tests.benchmarks.clients NAME JOB``.

A client sends what its job says and prints figures, as JSON: ``cpu`` and ``seconds`` of the measured part (user and
system time of the whole process, its threads too; of a command, what ``wait4`` says), ``growth`` of the peak of memory
in KiB, ``mails`` sent in all. Where there is one session it is open and warm when measuring begins; where there are
more, connecting is measured too, as it is for the commands.
"""

import asyncio
import json
import os
import resource
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Any, NamedTuple

import smtpkit
from smtpkit.message.message import Prepared
from smtpkit.protocol.envelope import Envelope
from smtpkit.protocol.mail_data import MailData
from smtpkit.session import deliver
from tests.benchmarks.servers import NotThereError

SENDER, HELLO, HOST = "ann@example.com", "client.example", "127.0.0.1"
LIMIT = 300  # seconds for a command
PIECE = 65_536  # octets read from a large mail at a time: larger ones cost malloc more, if they are looked through
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "smtpkit-benchmarks")
NODEMAILER = CACHE / "node_modules/nodemailer/package.json"
Figures = dict[str, float]


class Job(NamedTuple):
    """What a client has to do. ``size`` in octets; ``path``: a large mail; ``window``: of ``send_many``."""

    port: int = 0
    mails: int = 1
    size: int = 4096
    recipients: int = 1
    sessions: int = 1
    window: int = 0
    chunking: Any = "auto"
    path: str = ""
    latency: float = 0
    rate: float = 0

    @property
    def warm(self) -> int:
        """Mails before measuring begins: enough for a window to open."""
        if self.sessions > 1 or self.path:
            return 0
        return 10 if self.chunking == "never" else 10 + 4 * self.window

    @property
    def to(self) -> list[str]:
        """The recipients."""
        return [f"bob{number}@example.com" for number in range(self.recipients)]

    @property
    def mail(self) -> bytes:
        """A mail of the size, as it goes on the wire."""
        header = f"From: {SENDER}\r\nTo: {self.to[0]}\r\nSubject: benchmark\r\n\r\n".encode()
        return header + (b"y" * 70 + b"\r\n") * ((self.size - len(header)) // 72)

    @property
    def url(self) -> str:
        """Of the server."""
        return f"smtp://{HOST}:{self.port}"


class Meter:
    """What this process costs from ``begin`` to ``end``."""

    def begin(self) -> None:
        self._peak, self._cpu, self._began = _memory("VmHWM"), time.process_time(), time.perf_counter()

    def end(self, mails: int) -> Figures:
        cpu, seconds = time.process_time() - self._cpu, time.perf_counter() - self._began
        return {"cpu": cpu, "seconds": seconds, "growth": _memory("VmHWM") - self._peak, "mails": mails}


def _memory(what: str) -> int:
    """KiB, as the kernel has it."""
    return int(Path("/proc/self/status").read_text().partition(f"{what}:")[2].split()[0])


# --- smtpkit ----------------------------------------------------------------------------------------------------------


def _ours(job: Job, **options: Any) -> smtpkit.Client:
    options = {"tls": "none", "connections": job.sessions, "chunking": job.chunking, **options}
    return smtpkit.Client(job.url, hello=HELLO, **options)


async def send(job: Job) -> Figures:
    """``Client.send``, from as many tasks as there are sessions."""
    meter, mail, to = Meter(), job.mail, job.to
    warm = max(job.warm, 1)  # what the first mail imports, the others have imported by now
    async with _ours(job) as client:
        for _ in range(warm):
            await client.send(mail, SENDER, to)

        async def work() -> None:
            for _ in range(job.mails // job.sessions):
                await client.send(mail, SENDER, to)

        meter.begin()
        await asyncio.gather(*(work() for _ in range(job.sessions)))
        return meter.end(warm + job.mails // job.sessions * job.sessions)


async def send_many(job: Job) -> Figures:
    """``Client.send_many``; over one session it is measured once the window is open."""
    if not hasattr(smtpkit.Client, "send_many"):
        raise NotThereError("not there")
    meter, mail, settled = Meter(), job.mail, 0
    async with _ours(job) as client:
        opened: Any = client
        messages = [(mail, SENDER, job.to)] * (job.warm + job.mails)
        if not job.warm:  # but for what the first mail imports
            await client.send(mail, SENDER, job.to)
            meter.begin()
        async with opened.send_many(messages, window=job.window) as outcomes:
            async for outcome in outcomes:
                assert outcome.error is None, outcome.error
                settled += 1
                if settled == job.warm:
                    meter.begin()
        return meter.end(settled + (not job.warm))


def send_sync(job: Job) -> Figures:
    """``SyncClient.send``."""
    meter, mail, to = Meter(), job.mail, job.to
    with smtpkit.SyncClient(job.url, tls="none", hello=HELLO, chunking=job.chunking) as client:
        for _ in range(job.warm):
            client.send(mail, SENDER, to)
        meter.begin()
        for _ in range(job.mails):
            client.send(mail, SENDER, to)
        return meter.end(job.warm + job.mails)


async def idle(job: Job) -> Figures:
    """KiB that an open session takes while nothing is sent."""
    async with _ours(job) as client, AsyncExitStack() as stack:
        few = job.sessions // 10
        for _ in range(few):
            await stack.enter_async_context(client._session(None))
        before = _memory("VmRSS")
        for _ in range(job.sessions - few):
            await stack.enter_async_context(client._session(None))
        return {"kib": (_memory("VmRSS") - before) / (job.sessions - few), "mails": 0}


async def _large(job: Job, message: Any, **options: Any) -> Figures:
    meter = Meter()
    async with _ours(job, **options) as client:
        await client.send(job.mail, SENDER, job.to)
        meter.begin()
        if isinstance(message, MailData):
            mail = Prepared(Envelope.of(SENDER, tuple(job.to)), message, None, message)
            await deliver(message, _now(mail), lambda: client._session(None), client._observers, None)
        else:
            await client.send(message, SENDER, job.to)
        return meter.end(2)


async def _now(mail: Prepared) -> Prepared:
    return mail


def _pieces(path: str, size: int = PIECE) -> Iterator[bytes]:
    with Path(path).open("rb", buffering=0) as file:
        while piece := file.read(size):
            yield piece


async def large(job: Job) -> Figures:
    """An iterable, of which nothing is known."""
    return await _large(job, _pieces(job.path))


async def large_path(job: Job) -> Figures:
    """A path: read once to see what is in it, and again to be sent."""
    return await _large(job, Path(job.path))


async def large_safe(job: Job) -> Figures:
    """Mail data known to be safe on the wire, as those of our own making are, from a file."""
    return await _large(job, _safe(job.path))


async def large_tls(job: Job) -> Figures:
    """The same, in TLS from the first octet."""
    return await _large(job, _safe(job.path), tls="implicit", ssl_context=_unverified())


def _safe(path: str) -> MailData:
    size = Path(path).stat().st_size
    return MailData(lambda: _pieces(path, 4 * PIECE), size, eight_bit=False, mended=True, wire_safe=True)


async def paced(job: Job) -> Figures:
    """A mail at a rate, from an iterable."""

    async def pieces() -> AsyncIterator[bytes]:
        yield job.mail
        for _ in range(job.size // 7200):
            yield (b"y" * 70 + b"\r\n") * 100

    meter = Meter()
    async with _ours(job, rate=job.rate) as client:
        meter.begin()
        await client.send(pieces(), SENDER, job.to)
        return meter.end(1)


# --- Python's others --------------------------------------------------------------------------------------------------


def send_smtplib(job: Job) -> Figures:
    """The standard library; a thread for each session where there is more than one."""
    meter, to = Meter(), job.to
    mail = Path(job.path).read_bytes if job.path else lambda octets=job.mail: octets

    def work() -> None:
        with smtplib.SMTP(HOST, job.port, local_hostname=HELLO) as client:
            for _ in range(job.warm):
                client.sendmail(SENDER, to, job.mail)
            if job.sessions == 1:
                meter.begin()
            for _ in range(job.mails // job.sessions):
                client.sendmail(SENDER, to, mail())
            if job.sessions == 1:
                figures.update(meter.end(job.warm + job.mails))

    figures: Figures = {}
    if job.sessions == 1:
        work()
        return figures
    threading.stack_size(256 * 1024)
    threads = [threading.Thread(target=work) for _ in range(job.sessions)]
    meter.begin()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return meter.end(job.mails)


async def send_aiosmtplib(job: Job) -> Figures:
    """aiosmtplib, a client for each session."""
    import aiosmtplib

    meter, to, figures = Meter(), job.to, {}
    mail = Path(job.path).read_bytes if job.path else lambda octets=job.mail: octets

    async def work() -> None:
        client = aiosmtplib.SMTP(
            hostname=HOST, port=job.port, local_hostname=HELLO, start_tls=False, use_tls=False, timeout=LIMIT
        )
        async with client:
            for _ in range(job.warm):
                await client.sendmail(SENDER, to, job.mail)
            if job.sessions == 1:
                meter.begin()
            for _ in range(job.mails // job.sessions):
                await client.sendmail(SENDER, to, mail())
            if job.sessions == 1:
                figures.update(meter.end(job.warm + job.mails))

    if job.sessions > 1:
        meter.begin()
    await asyncio.gather(*(work() for _ in range(job.sessions)))
    return figures or meter.end(job.mails)


async def send_smtpproto(job: Job) -> Figures:
    """smtpproto, which takes an ``EmailMessage`` and nothing else."""
    try:
        from smtpproto.client import AsyncSMTPClient
    except ImportError:
        raise NotThereError("no smtpproto") from None
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = SENDER, ", ".join(job.to), "benchmark"
    message.set_content(("y" * 70 + "\n") * (job.size // 72))
    meter = Meter()
    async with AsyncSMTPClient(HOST, job.port, domain=HELLO).connect() as session:
        for _ in range(job.warm):
            await session.send_message(message)
        meter.begin()
        for _ in range(job.mails):
            await session.send_message(message)
        return meter.end(job.warm + job.mails)


# --- raw octets: what the kernel, and TLS, can do ---------------------------------------------------------------------


def _raw(job: Job, stream: socket.socket, verb: bytes) -> Figures:
    """``sendall`` of what a file holds, within one transaction in lock-step."""
    meter, mark = Meter(), b""
    size = Path(job.path).stat().st_size
    buffer = memoryview(bytearray(4 * PIECE))
    with stream, Path(job.path).open("rb", buffering=0) as file:
        stream.recv(4096)
        for line in (b"EHLO client.example", b"MAIL FROM:<ann@example.com>", b"RCPT TO:<bob@example.com>"):
            stream.sendall(line + b"\r\n")
            stream.recv(4096)
        if verb == b"DATA":
            stream.sendall(b"DATA\r\n")
            stream.recv(4096)
            mark = b".\r\n"
        meter.begin()
        if verb == b"BDAT":
            stream.sendall(b"BDAT %d LAST\r\n" % size)
        while got := file.readinto(buffer):
            stream.sendall(buffer[:got])
        stream.sendall(mark)
        stream.recv(4096)
        return meter.end(1)


def raw_data(job: Job) -> Figures:
    """By DATA."""
    return _raw(job, socket.create_connection((HOST, job.port)), b"DATA")


def raw_bdat(job: Job) -> Figures:
    """By BDAT."""
    return _raw(job, socket.create_connection((HOST, job.port)), b"BDAT")


def raw_tls(job: Job) -> Figures:
    """By DATA, over a blocking ``SSLSocket``."""
    return _raw(job, _unverified().wrap_socket(socket.create_connection((HOST, job.port))), b"DATA")


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


# --- commands ---------------------------------------------------------------------------------------------------------


def _command(*words: str) -> Figures:
    """Run a command to its end."""
    began = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    timer = threading.Timer(LIMIT, process.kill)
    timer.start()
    try:
        _, status, used = os.wait4(process.pid, 0)
    finally:
        timer.cancel()
    seconds = time.perf_counter() - began
    assert process.stderr is not None
    said = process.stderr.read().decode(errors="replace")
    process.stderr.close()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{words[0]} ended with {process.returncode}: {said[-500:]}")
    return {"cpu": used.ru_utime + used.ru_stime, "seconds": seconds}


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise NotThereError(f"no {name}")
    return found


def smtp_source(job: Job) -> Figures:
    """Postfix's; less what it costs to start and send one mail where there is one session."""
    words = [_program("smtp-source"), "-d", "-M", HELLO, "-f", SENDER, "-t", job.to[0], "-l", str(job.size)]
    server = f"{HOST}:{job.port}"
    if job.sessions > 1:
        return _command(*words, "-m", str(job.mails), "-s", str(job.sessions), server) | {"mails": job.mails}
    one, all_ = (_command(*words, "-m", str(count), "-r", str(job.recipients), server) for count in (1, job.mails + 1))
    return {name: all_[name] - one[name] for name in one} | {"mails": job.mails + 2}


def curl(job: Job) -> Figures:
    """One large mail; less what it costs to start and send a small one."""
    words = [_program("curl"), "--silent", "--show-error", "--mail-from", SENDER, "--mail-rcpt", job.to[0]]
    with _file(job.mail) as small:
        one, large = (_command(*words, "--upload-file", path, job.url) for path in (small, job.path))
    return {name: large[name] - one[name] for name in one} | {"mails": 2}


@contextmanager
def _file(octets: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(octets)
        file.flush()
        yield file.name


def nodemailer(job: Job) -> Figures:
    """A pool of its own; installed into a cache folder when it is first needed."""
    node, npm = _program("node"), _program("npm")
    if not NODEMAILER.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        words = ["install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(CACHE)]
        if subprocess.run([npm, *words, "nodemailer@10"], check=False, timeout=LIMIT, capture_output=True).returncode:
            raise NotThereError("nodemailer cannot be installed")
    with _file(job.mail) as mail:
        script = Path(__file__).with_name("nodemailer.js")
        words = [node, str(script), str(CACHE), str(job.port), str(job.mails), str(job.sessions), mail]
        printed = subprocess.run(words, check=True, timeout=LIMIT, capture_output=True, text=True).stdout
    figures: Figures = json.loads(printed)
    return figures | {"mails": job.mails}


# --- what needs no server ---------------------------------------------------------------------------------------------


def _import(statement: str) -> Figures:
    code = f"import time; began = time.process_time(); {statement}; print(time.process_time() - began)"
    printed = subprocess.run([sys.executable, "-c", code], check=True, timeout=LIMIT, capture_output=True).stdout
    return {"ms": float(printed) * 1000, "mails": 0}


def import_smtpkit(job: Job) -> Figures:
    """In an interpreter of its own."""
    return _import("import smtpkit")


def import_client(job: Job) -> Figures:
    """With what is imported when it is first used."""
    return _import("from smtpkit import Client")


def import_smtplib(job: Job) -> Figures:
    """In an interpreter of its own."""
    return _import("import smtplib")


def building(job: Job) -> Figures:
    """How many times as fast as the standard library."""
    from tests.benchmarks import building

    return {row.what: row.ratio for row in building.rows()} | {"mails": 0}


CLIENTS: dict[str, Callable[[Job], Any]] = {
    "Client.send": send,
    "Client.send_many": send_many,
    "SyncClient.send": send_sync,
    "idle sessions": idle,
    "an iterable": large,
    "a path": large_path,
    "wire-safe": large_safe,
    "in TLS": large_tls,
    "at a rate": paced,
    "smtplib": send_smtplib,
    "aiosmtplib": send_aiosmtplib,
    "smtpproto": send_smtpproto,
    "smtp-source": smtp_source,
    "nodemailer": nodemailer,
    "curl": curl,
    "sendall": raw_data,
    "sendall, BDAT": raw_bdat,
    "SSLSocket": raw_tls,
    "import smtpkit": import_smtpkit,
    "import Client": import_client,
    "import smtplib": import_smtplib,
    "building": building,
}


def main(name: str, job: str) -> None:
    """Do it, and print the figures, or why there are none."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    result: Any
    try:
        result = CLIENTS[name](Job(**json.loads(job)))
        result = asyncio.run(result) if asyncio.iscoroutine(result) else result
    except NotThereError as error:
        result = {"missing": str(error)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
