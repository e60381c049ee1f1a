"""Debian 12's own OpenSMTPD 6.8: with OpenSSL 3 it announces STARTTLS, says 220, and fails in the handshake.

No other mail server may be installed beside it, so it is unpacked and not installed: the environment's OPENSMTPD names
the folder. It runs as root in a mount namespace of its own, where it sees the system with its own files laid over it,
in memory; nothing outside is changed, and all of it ends with the process that is started here.
"""

import os
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.certificates import issue
from tests.servers.postfix import free_ports, greets

PACKAGES = ("opensmtpd", "libevent-2.1-7")  # what .ci/run unpacks

_CONFIGURATION = """\
pki here cert "/etc/chain.pem"
pki here key "/etc/key.pem"
listen on 127.0.0.1 port {port} tls pki here hostname mx.example.test
action "take" maildir "/var/mail/%{{rcpt.user}}" virtual {{ "@" = nobody }}
match from any for any action "take"
"""
_FILES = {
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",  # no question leaves this machine
    "hosts": "127.0.0.1 localhost mx.example.test\n",
}
_USERS = ("opensmtpd", "opensmtpq")
_ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_RUN = """\
set -eu
unpacked=$1 home=$2
mount -t tmpfs tmpfs "$home/room"
cd "$home/room"
mkdir over work root
cp -a "$home/files/." over
cp -a "$unpacked/usr" over
mount -t overlay overlay -o "lowerdir=/,upperdir=$PWD/over,workdir=$PWD/work" root
mount --rbind /dev root/dev
exec chroot root /usr/sbin/smtpd -d
"""


def why_not() -> str | None:
    """Why OpenSMTPD cannot be started here, or None if it may be."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "OpenSMTPD starts as root only"
    unpacked = os.environ.get("OPENSMTPD", "")
    if not (Path(unpacked) / "usr/sbin/smtpd").exists():
        return f"not unpacked: {' '.join(PACKAGES)} of Debian 12, in the folder that OPENSMTPD names in the environment"
    return None if shutil.which("unshare") else "there is no unshare"


class OpenSMTPD:
    """The server, between ``__enter__`` and ``__exit__``; ``authority`` is the file to trust. Raises RuntimeError."""

    def __init__(self, directory: Path) -> None:
        self.port, _ = free_ports()
        self.authority = str(directory / "files/etc/authority.pem")
        self.log = directory / "log"
        self._home = directory

    def __enter__(self) -> Self:
        home, etc = self._home, self._home / "files/etc"
        (home / "room").mkdir()
        for folder in (etc, home / "files/var/lib/opensmtpd/empty", home / "files/var/spool/smtpd"):
            folder.mkdir(parents=True)
        for folder in (home / "files", home / "files/var/spool/smtpd"):
            folder.chmod(0o711)
        issue(etc)
        for name, text in _FILES.items():
            (etc / name).write_text(text)
        for name, rest in {"passwd": "{0}::/var/lib/opensmtpd/empty:/bin/false", "group": ""}.items():
            more = [f"{user}:x:{number}:{rest.format(number)}\n" for number, user in enumerate(_USERS, 64_901)]
            (etc / name).write_text(Path("/etc", name).read_text() + "".join(more))
        (etc / "smtpd.conf").write_text(_CONFIGURATION.format(port=self.port))
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*_ALONE, "sh", "-c", _RUN, "sh", os.environ["OPENSMTPD"], str(home)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
            )
        until = time.monotonic() + 20
        while not greets(self.port, tls=False):
            if self._process.poll() is not None or time.monotonic() > until:
                self._stop()
                raise RuntimeError(f"OpenSMTPD did not start: {self.log.read_text(errors='replace')}")
            time.sleep(0.02)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        self._process.kill()
        self._process.wait(20)
