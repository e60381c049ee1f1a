"""Real proxies on loopback ports, run from a directory of their own, without systemd, as root.

Rules: nothing of /etc is read or changed; they connect to loopback only; each is ended by its process group, never by
its name.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

PACKAGES = ("dante-server", "microsocks", "tinyproxy", "squid", "openssh-server", "openssh-client")  # for .ci/run
PROGRAMS = {"dante": "danted", "microsocks": "microsocks", "tinyproxy": "tinyproxy", "squid": "squid", "ssh": "sshd"}
USER, PASSWORD = "tester", "secret"

_DANTE = """\
logoutput: {home}/log
internal: 127.0.0.1 port = {port}
external: lo
external.rotation: none
clientmethod: none
socksmethod: none
user.privileged: root
user.unprivileged: nobody
client pass {{ from: 127.0.0.0/8 to: 0.0.0.0/0 }}
socks pass {{ from: 127.0.0.0/8 to: 127.0.0.0/8 protocol: tcp }}
"""

_TINYPROXY = """\
Port {port}
Listen 127.0.0.1
Timeout 60
LogFile "{home}/log"
LogLevel Info
MaxClients 500
Allow 127.0.0.1
BasicAuth tester secret
"""

_SQUID = """\
http_port 127.0.0.1:{port}
acl CONNECT method CONNECT
acl loopback dst 127.0.0.0/8
http_access allow CONNECT loopback
http_access deny all
access_log stdio:{home}/access.log
cache_log {home}/log
pid_filename {home}/pid
cache deny all
coredump_dir {home}
visible_hostname localhost
dns_nameservers 127.0.0.1
shutdown_lifetime 0 seconds
pinger_enable off
netdb_filename none
"""

_SSHD = """\
Port {other}
ListenAddress 127.0.0.1
HostKey {home}/host_key
AuthorizedKeysFile {home}/user_key.pub
StrictModes no
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
"""


def why_not(kind: str) -> str | None:
    """Why this proxy cannot be started here, or None if it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "the proxies start as root only"
    if shutil.which(PROGRAMS[kind]) is None:
        return f"not installed: {PROGRAMS[kind]} (Debian: {' '.join(PACKAGES)})"
    return None


class RealProxy:
    """A proxy that runs while the context lasts, on ``port`` of 127.0.0.1.

    ``kind`` is dante (SOCKS4, SOCKS5), microsocks (SOCKS5 with ``USER`` and ``PASSWORD``), tinyproxy (CONNECT with
    them), squid (CONNECT) or ssh (``ssh -D``: SOCKS4, 4a, 5). ``directory`` must be empty and reachable by every user.
    """

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.directory = directory.resolve()
        self.port = 0
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def log(self) -> str:
        """What it has logged so far."""
        return "".join(file.read_text(errors="replace") for file in sorted(self.directory.glob("*log")))

    def __enter__(self) -> Self:
        self.directory.chmod(0o755)
        for attempt in (1, 2, 3):  # another process may take a free port before the proxy does
            try:
                self._start()
            except RuntimeError:
                if attempt == 3:
                    raise
            else:
                break
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _start(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            self.port, other = one.getsockname()[1], two.getsockname()[1]
        home = self.directory
        configuration = home / "configuration"
        texts = {"dante": _DANTE, "tinyproxy": _TINYPROXY, "squid": _SQUID, "ssh": _SSHD}
        if self.kind in texts:
            configuration.write_text(texts[self.kind].format(home=home, port=self.port, other=other))
        match self.kind:
            case "dante":
                self._run("danted", "-f", configuration)
            case "microsocks":
                self._run("microsocks", "-i", "127.0.0.1", "-p", self.port, "-u", USER, "-P", PASSWORD)
            case "tinyproxy":
                self._run("tinyproxy", "-d", "-c", configuration)
            case "squid":
                shutil.chown(home, "proxy")
                self._run("squid", "-N", "-f", configuration)
            case _:
                self._start_ssh(home, configuration, other)
        self._wait_for(self.port)

    def _start_ssh(self, home: Path, configuration: Path, port: int) -> None:
        """A private sshd with keys of its own, and ``ssh -D`` through it."""
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd locks itself up before the login; it cannot be told another
        for key in ("host_key", "user_key"):
            if not (home / key).exists():
                subprocess.run(
                    ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / key], check=True, capture_output=True
                )
        self._run(str(shutil.which("sshd")), "-D", "-f", configuration, "-E", home / "log")
        self._wait_for(port)
        arguments = ["-N", "-D", f"127.0.0.1:{self.port}", "-p", port, "-i", home / "user_key", "-F", "none"]
        arguments += ["-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={home}/known", "-o", "BatchMode=yes"]
        self._run("ssh", *arguments, "-o", "ExitOnForwardFailure=yes", "-E", home / "ssh.log", "root@127.0.0.1")

    def _run(self, *command: object) -> None:
        with (self.directory / "output.log").open("ab") as output:
            self._processes.append(
                subprocess.Popen(
                    [str(word) for word in command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            )

    def _wait_for(self, port: int) -> None:
        until = time.monotonic() + 20
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                return
            if any(process.poll() is not None for process in self._processes) or time.monotonic() > until:
                self._stop()
                raise RuntimeError(f"{self.kind} did not start\n{self.log}")
            time.sleep(0.05)

    def _stop(self) -> None:
        """End each with what it has started: a session of its own."""
        for process in reversed(self._processes):
            for number in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                    break
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # children that have outlived it
        self._processes.clear()
