"""A real Kerberos KDC (MIT) on a loopback port, run from a directory of its own, as root.

It knows the realm EXAMPLE.TEST, the user ``tester`` and the service ``smtp/localhost``. Nothing of /etc is read.
"""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

PACKAGES = ("krb5-kdc", "krb5-admin-server")  # what .ci/run installs
USER = "tester@EXAMPLE.TEST"
PASSWORD = "secret"

_CLIENT = """\
[libdefaults]
 default_realm = EXAMPLE.TEST
 dns_lookup_realm = false
 dns_lookup_kdc = false
 dns_canonicalize_hostname = false
 rdns = false
 udp_preference_limit = 1
[realms]
 EXAMPLE.TEST = {{
  kdc = 127.0.0.1:{port}
 }}
[domain_realm]
 localhost = EXAMPLE.TEST
"""

_KDC = """\
[kdcdefaults]
 kdc_listen = 127.0.0.1:{port}
 kdc_tcp_listen = 127.0.0.1:{port}
[realms]
 EXAMPLE.TEST = {{
  database_name = {home}/principal
  key_stash_file = {home}/stash
  acl_file = {home}/acl
 }}
[logging]
 kdc = FILE:{home}/log
"""


def why_not() -> str | None:
    """Why a KDC cannot be started here, or None if it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "the KDC starts as root only"
    missing = [program for program in ("krb5kdc", "kadmin.local", "kdb5_util") if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (Debian: {' '.join(PACKAGES)})" if missing else None


class KDC:
    """A KDC that runs while the context lasts. ``client`` and ``server`` are the environments for either side.

    The client's holds a key of the user's, so that a ticket is got without a password.
    """

    def __init__(self, directory: Path) -> None:
        home = self._home = directory.resolve()
        self.config = {"KRB5_CONFIG": f"{home}/krb5.conf"}
        self.server = {**self.config, "KRB5_KTNAME": f"{home}/smtp.keytab", "KRB5RCACHENAME": "none:"}
        self.client = {
            **self.config,
            "KRB5_CLIENT_KTNAME": f"{home}/tester.keytab",
            "KRB5CCNAME": f"FILE:{home}/tickets",
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        home = self._home
        home.chmod(0o755)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (home / "krb5.conf").write_text(_CLIENT.format(port=port))
        (home / "kdc.conf").write_text(_KDC.format(port=port, home=home))
        environment = {**os.environ, **self.config, "KRB5_KDC_PROFILE": f"{home}/kdc.conf"}

        def run(*command: str) -> None:
            subprocess.run(command, env=environment, check=True, capture_output=True, stdin=subprocess.DEVNULL)

        run("kdb5_util", "create", "-s", "-r", "EXAMPLE.TEST", "-P", "master")
        for query in (
            f"addprinc -pw {PASSWORD} {USER}",
            "addprinc -randkey smtp/localhost",
            f"ktadd -k {home}/smtp.keytab smtp/localhost",
            f"ktadd -norandkey -k {home}/tester.keytab {USER}",
        ):
            run("kadmin.local", "-q", query)
        (home / "smtp.keytab").chmod(0o644)
        self._process = subprocess.Popen(
            ["krb5kdc", "-n"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + 20
        while not _listens(port):
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError("the KDC did not start")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(10)


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except OSError:
        return False
    return True
