"""A real Postfix 3.7 on two loopback ports, run from a directory of its own, without systemd, as root.

Rules: nothing of /etc/postfix is read or changed but the list of its own programs; no mail can leave the machine (the
configuration has no SMTP client and asks no DNS); the server is ended by its process id, never by its name.
"""

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.certificates import issue

PACKAGES = ("postfix", "sasl2-bin", "libsasl2-modules", "libsasl2-modules-gssapi-mit")  # what .ci/run installs
USER = "tester@example.test"
PASSWORD = "secret"
MECHANISMS = "PLAIN LOGIN CRAM-MD5 DIGEST-MD5 SCRAM-SHA-1 SCRAM-SHA-256"

# Delivery as "nobody": virtual(8) refuses to deliver as root, and needs no account of its own.
_NOBODY = 65534

_MAIN = """\
compatibility_level = 3.6
queue_directory = {home}/spool
data_directory = {home}/lib
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
maillog_file = {home}/log
maillog_file_prefixes = {home}
enable_long_queue_ids = yes
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = {hostname}
mydestination =
mynetworks = 127.0.0.0/8
alias_maps =
# Whoever the mail is for, it lands in one maildir; Delivered-To tells the recipients apart.
virtual_mailbox_domains = example.test, xn--bcher-kva.example
virtual_mailbox_base = {home}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}
virtual_minimum_uid = 1000
virtual_mailbox_limit = 0
message_size_limit = 52428800
smtputf8_enable = yes
# Strict against smuggling; the default exempts the local network, which is all there is here.
smtpd_forbid_bare_newline = reject
smtpd_forbid_bare_newline_exclusions =
smtpd_forbid_unauth_pipelining = yes
smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificate.chain}
smtpd_tls_key_file = {certificate.key}
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
cyrus_sasl_config_path = {home}/etc/sasl
smtpd_sasl_local_domain = example.test
smtpd_sasl_security_options =
import_environment = MAIL_CONFIG MAIL_DEBUG MAIL_LOGTAG TZ LANG=C KRB5_CONFIG KRB5_KTNAME KRB5RCACHENAME
smtpd_sasl_authenticated_header = yes
smtpd_authorized_xclient_hosts = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtpd_sender_restrictions = check_sender_access regexp:{home}/etc/senders
smtpd_delay_reject = no
smtpd_recipient_restrictions = check_recipient_access regexp:{home}/etc/recipients
smtpd_client_connection_count_limit = 0
smtpd_error_sleep_time = 0
smtpd_hard_error_limit = 1000
in_flow_delay = 0
# Nothing leaves: no look-ups, and every transport to elsewhere is a refusal.
smtpd_peername_lookup = no
smtp_dns_support_level = disabled
local_transport = error:5.1.1 no local mail in tests
default_transport = error:5.1.1 no outside mail in tests
relay_transport = error:5.1.1 no outside mail in tests
"""

_MASTER = """\
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd -o smtpd_tls_wrappermode=yes -o smtpd_tls_security_level=encrypt
127.0.0.1:{limited_port} inet n - n - - smtpd -o smtpd_recipient_limit=3
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""

_RECIPIENTS = """\
/^reject/ 550 5.1.1 no such mailbox
/^defer/ 451 4.2.1 try again later
"""

_SENDERS = """\
/^refused/ 550 5.7.1 not from you
"""

_SASL = """\
pwcheck_method: auxprop
auxprop_plugin: sasldb
sasldb_path: {home}/sasldb2
mech_list: {mechanisms}
"""


def why_not() -> str | None:
    """Why Postfix cannot be started here, or None if it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "Postfix starts as root only"
    missing = [program for program in ("postfix", "saslpasswd2") if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (Debian: {' '.join(PACKAGES)})" if missing else None


class Postfix:
    """A Postfix that runs while the context lasts.

    ``port`` speaks SMTP with STARTTLS and AUTH (``USER``, ``PASSWORD``), ``tls_port`` the same under implicit TLS;
    ``certificate`` is the file to trust. ``limited_port`` speaks SMTP and takes three recipients at a time. All offer
    PIPELINING, SIZE, VRFY, ETRN, 8BITMIME, DSN, SMTPUTF8 and CHUNKING. Mail for anyone at example.test or
    bücher.example is delivered below ``directory``, but to ``reject…`` (550) and ``defer…`` (451); no mail is taken
    from ``refused…`` (550). ``directory`` must be empty and reachable by every user, since Postfix gives up its rights.
    ``mechanisms`` are those that it offers, ``environment`` is what its processes get to know besides, and ``hostname``
    its name, for which it holds a Kerberos key if there is one.
    """

    def __init__(
        self,
        directory: Path,
        mechanisms: str = MECHANISMS,
        environment: Mapping[str, str] | None = None,
        hostname: str = "mx.example.test",
    ) -> None:
        self.directory = directory.resolve()
        self._mechanisms = mechanisms
        self._environment = environment or {}
        self._hostname = hostname
        self.certificate = self.directory / "authority.pem"
        self.port = self.tls_port = self.limited_port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What Postfix has logged so far."""
        file = self.directory / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def mail(self, user: str, count: int = 1, timeout: float = 10) -> list[bytes]:
        """The mails delivered to ``user`` (a local part, or an address), oldest first, with LF line ends, as stored.

        Waits until there are ``count``. Raises TimeoutError with the log after ``timeout`` seconds. Return-Path,
        X-Original-To, Delivered-To and Received stand before the header fields as they were sent.
        """
        address = user if "@" in user else f"{user}@example.test"
        until = time.monotonic() + timeout
        while len(found := self._delivered(address.encode())) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(found)} of {count} mails for {address} arrived\n{self.log}")
            time.sleep(0.02)
        return found

    def _delivered(self, address: bytes) -> list[bytes]:
        files = (self.directory / "mail/all/new").glob("*")
        mails = [file.read_bytes() for file in sorted(files, key=lambda file: file.stat().st_mtime_ns)]
        wanted = re.compile(rb"^Delivered-To: " + re.escape(address) + rb"$", re.MULTILINE | re.IGNORECASE)
        return [mail for mail in mails if wanted.search(mail.partition(b"\n\n")[0])]

    def __enter__(self) -> Self:
        self._lay_out()
        for attempt in (1, 2, 3):  # another process may take a free port before Postfix does
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

    def _lay_out(self) -> None:
        """Write all that Postfix reads, but for its ports."""
        home = self.directory
        home.chmod(0o755)
        closed = [folder for folder in (home, *home.parents) if not folder.stat().st_mode & stat.S_IXOTH]
        if closed:
            raise ValueError(f"directory {home}: Postfix's users cannot pass {closed[-1]}; choose one open to all")
        for folder in ("etc/sasl", "spool", "lib", "mail"):
            (home / folder).mkdir(parents=True)
        shutil.chown(home / "lib", "postfix")
        os.chown(home / "mail", _NOBODY, _NOBODY)
        (home / "etc/main.cf").write_text(
            _MAIN.format(home=home, hostname=self._hostname, nobody=_NOBODY, certificate=issue(home))
        )
        (home / "etc/recipients").write_text(_RECIPIENTS)
        (home / "etc/senders").write_text(_SENDERS)
        (home / "etc/sasl/smtpd.conf").write_text(_SASL.format(home=home, mechanisms=self._mechanisms))
        user, _, realm = USER.partition("@")
        database = home / "sasldb2"
        subprocess.run(
            ["saslpasswd2", "-p", "-c", "-f", database, "-u", realm, user],
            input=PASSWORD.encode(),
            check=True,
            capture_output=True,
        )
        database.chmod(0o644)  # smtpd reads it after giving up root

    def _start(self) -> None:
        self.port, self.tls_port = free_ports()
        self.limited_port, _ = free_ports()
        master = _MASTER.format(port=self.port, tls_port=self.tls_port, limited_port=self.limited_port)
        (self.directory / "etc/master.cf").write_text(master)
        self._process = subprocess.Popen(
            ["postfix", "-c", self.directory / "etc", "start-fg"],
            env={**os.environ, **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + 20
        while not all(greets(port, tls=port == self.tls_port) for port in (self.port, self.tls_port)):
            if self._process.poll() is not None or time.monotonic() > until:
                self._stop()
                raise RuntimeError(f"Postfix did not start\n{self.log}")
            time.sleep(0.05)

    def _stop(self) -> None:
        """End the master, which ends its children; then the script that waits for it."""
        assert self._process is not None
        lock = self.directory / "spool/pid/master.pid"
        with suppress(FileNotFoundError, ValueError, ProcessLookupError):
            os.kill(int(lock.read_text()), signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)  # a session of its own: it and what it started
            self._process.wait(10)


def free_ports() -> tuple[int, int]:
    """Two ports of loopback that nobody uses."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


def greets(port: int, *, tls: bool) -> bool:
    """Is somebody there? Under TLS, to be connected is all that can be seen."""
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            return tls or sock.recv(3) == b"220"
    except OSError:
        return False
