"""A real Dovecot 2.3: submission and LMTP on loopback, run from a directory of its own, without systemd, as root.

Rules: nothing of /etc/dovecot is read or changed; what is submitted is relayed to one port of loopback; the server is
ended by its process id, never by its name.
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers.certificates import issue
from tests.servers.postfix import free_ports, greets

PACKAGES = ("dovecot-core", "dovecot-submissiond", "dovecot-lmtpd", "dovecot-gssapi")  # what .ci/run installs
USER = "tester"
PASSWORD = "secret"
_KEY = b"a key of the tests that signs tokens"
_NOBODY = 65534

_MAIN = """\
base_dir = {home}/run
state_dir = {home}/state
log_path = {home}/log
instance_name = smtpkit-tests
protocols = submission lmtp
listen = 127.0.0.1
import_environment = TZ KRB5_CONFIG KRB5RCACHENAME
ssl = yes
ssl_cert = <{certificate.chain}
ssl_key = <{certificate.key}
ssl_ca = <{certificate.authority}
ssl_require_crl = no
ssl_verify_client_cert = yes
auth_ssl_username_from_cert = yes
disable_plaintext_auth = no
auth_mechanisms = plain login cram-md5 digest-md5 scram-sha-1 scram-sha-256 oauthbearer xoauth2 external {kerberos}
auth_gssapi_hostname = "$ALL"
auth_krb5_keytab = {keytab}
auth_verbose = yes
auth_failure_delay = 0
hostname = mx.example.test
mail_location = maildir:{home}/mail/%n
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
first_valid_gid = 1
passdb {{
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = {home}/oauth2.conf
}}
passdb {{
  driver = static
  mechanisms = external
  args = nopassword=y
}}
passdb {{
  driver = passwd-file
  args = username_format=%n {home}/users
}}
userdb {{
  driver = static
  args = uid=nobody gid=nogroup home={home}/mail/%n allow_all_users=yes
}}
submission_relay_host = 127.0.0.1
submission_relay_port = {relay}
submission_max_mail_size = 50M
service submission-login {{
  inet_listener submission {{
    port = {port}
  }}
  inet_listener submissions {{
    port = {tls_port}
    ssl = yes
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {lmtp_port}
  }}
}}
# No waiting for who has failed to log in before.
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  unix_listener stats-writer {{
    mode = 0666
  }}
}}
"""

_OAUTH = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix={home}/keys/
username_attribute = email
"""


def why_not() -> str | None:
    """Why Dovecot cannot be started here, or None if it can."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "Dovecot starts as root only"
    programs = ("/usr/sbin/dovecot", "/usr/lib/dovecot/submission-login", "/usr/lib/dovecot/lmtp")
    missing = [program for program in programs if shutil.which(program) is None]
    return f"not installed: {', '.join(missing)} (Debian: {' '.join(PACKAGES)})" if missing else None


def token(user: str = USER, lasts: float = 600) -> str:
    """A bearer token (JWT, HS256) for this user, good for so many seconds."""

    def part(octets: bytes) -> bytes:
        return base64.urlsafe_b64encode(octets).rstrip(b"=")

    now = int(time.time())
    claims = {"iss": "tests", "sub": user, "email": user, "azp": "default", "iat": now - 5, "nbf": now - 5}
    head = part(json.dumps({"alg": "HS256", "typ": "JWT", "kid": "default"}).encode())
    head += b"." + part(json.dumps({**claims, "exp": now + lasts}).encode())
    return (head + b"." + part(hmac.digest(_KEY, head, hashlib.sha256))).decode()


class Dovecot:
    """A Dovecot that runs while the context lasts.

    ``port`` speaks submission with STARTTLS and AUTH, ``tls_port`` the same under implicit TLS, ``lmtp_port`` LMTP
    without a login; ``certificate`` is the file to trust, ``client_certificate`` shows ``USER``. What is submitted goes
    on to ``relay``, a port; what comes by LMTP is kept below ``directory``, which must be empty and open to all.
    """

    def __init__(self, directory: Path, relay: int, environment: Mapping[str, str] | None = None) -> None:
        self.directory = directory.resolve()
        self.certificate = self.directory / "authority.pem"
        self.client_certificate = self.directory / "client.pem"
        self.port = self.tls_port = self.lmtp_port = 0
        self._relay = relay
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What Dovecot has logged so far."""
        file = self.directory / "log"
        return file.read_text(errors="replace") if file.exists() else ""

    def mail(self, user: str, count: int = 1, timeout: float = 10) -> list[bytes]:
        """The mails that came for a local part by LMTP, as stored. Waits until there are ``count``."""
        until = time.monotonic() + timeout
        while len(files := list((self.directory / "mail" / user / "new").glob("*"))) < count:
            if time.monotonic() > until:
                raise TimeoutError(f"{len(files)} of {count} mails for {user} arrived\n{self.log}")
            time.sleep(0.02)
        return [file.read_bytes() for file in files]

    def __enter__(self) -> Self:
        home = self.directory
        home.chmod(0o755)
        for folder in ("run", "state", "mail", "keys/default/HS256"):
            (home / folder).mkdir(parents=True)
        os.chown(home / "mail", _NOBODY, _NOBODY)
        (home / "keys/default/HS256/default").write_bytes(base64.b64encode(_KEY))
        (home / "oauth2.conf").write_text(_OAUTH.format(home=home))
        (home / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}::::::k5principals={USER}@EXAMPLE.TEST\n")
        self.port, self.tls_port = free_ports()
        self.lmtp_port, _ = free_ports()
        keytab = self._environment.get("KRB5_KTNAME", "")
        main = _MAIN.format(
            home=home,
            certificate=issue(home),
            kerberos="gssapi" if keytab else "",
            keytab=keytab,
            relay=self._relay,
            port=self.port,
            tls_port=self.tls_port,
            lmtp_port=self.lmtp_port,
        )
        (home / "dovecot.conf").write_text(main)
        with (home / "console").open("wb") as console:
            self._process = subprocess.Popen(
                ["/usr/sbin/dovecot", "-F", "-c", home / "dovecot.conf"],
                env={**os.environ, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        until = time.monotonic() + 20
        while not (greets(self.port, tls=False) and greets(self.lmtp_port, tls=False)):
            if self._process.poll() is not None or time.monotonic() > until:
                self._stop()
                raise RuntimeError(f"Dovecot did not start\n{(home / 'console').read_text()}\n{self.log}")
            time.sleep(0.05)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        """End the master, which ends its children."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.terminate()
        self._process.wait(10)
