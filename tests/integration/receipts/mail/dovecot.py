"""Debian's Dovecot as an IMAP server with TLS and one account, in a folder of its own.

If it is not installed, its packages are unpacked and laid over /usr/lib in a mount namespace, because Dovecot finds its
modules at a fixed path. That needs root, as Postfix does.
"""

from __future__ import annotations

import imaplib
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme

from tests.debian import missing, unpacked
from tests.servers import free_port

USER = "bounces@example.com"
PASSWORD = "ö / right?"
_CONF = """\
protocols = imap
base_dir = {home}/run
libexec_dir = /usr/lib/dovecot
auth_mechanisms = plain
default_internal_user = nobody
default_internal_group = nogroup
default_login_user = nobody
disable_plaintext_auth = yes
log_path = {home}/dovecot.log
mail_location = maildir:{home}/mail
first_valid_uid = 1
import_environment = LD_LIBRARY_PATH
ssl = required
ssl_cert = <{home}/server.pem
ssl_key = <{home}/server.pem
passdb {{
  driver = passwd-file
  args = scheme=PLAIN {home}/users
}}
userdb {{
  driver = static
  args = uid=65534 gid=65534 home={home}/mail
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    address = 127.0.0.1
    port = {port}
  }}
  inet_listener imaps {{
    address = 127.0.0.1
    port = {tls_port}
  }}
}}
auth_failure_delay = 0
mail_max_userip_connections = 1000
service anvil {{
  chroot =
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service stats {{
  chroot =
}}
"""


class Dovecot:
    """A running Dovecot; `ca_file` is the authority of its certificate, which is issued to `localhost`."""

    def __init__(self) -> None:
        if os.geteuid() != 0:
            missing("only root may run dovecot")
        self.port, self.tls_port = free_port(), free_port()
        self.home = Path(tempfile.mkdtemp(prefix="kurir-dovecot-"))
        self.ca_file = self.home / "ca.pem"
        self._process: subprocess.Popen[bytes] | None = None
        self._write_files()

    def start(self) -> None:
        """Start it and wait for its greeting."""
        conf = self.home / "dovecot.conf"
        if shutil.which("dovecot", path="/usr/sbin"):
            command = ["/usr/sbin/dovecot", "-c", str(conf), "-F"]
        else:
            roots = [unpacked(name) for name in ("dovecot-imapd", "dovecot-core")]
            layers = ":".join([*(f"{root}/usr/lib" for root in roots), "/usr/lib"])
            core = roots[1]
            run = f"{core}/usr/bin/doveconf -c {conf} -m master -e {core}/usr/sbin/dovecot -c {conf} -F"
            overlay = f"mount -t overlay overlay -o lowerdir={layers} /usr/lib && exec {run}"
            command = ["unshare", "-m", "sh", "-c", overlay]
        environment = {**os.environ, "LD_LIBRARY_PATH": "/usr/lib/dovecot"}
        errors = self.home / "stderr.txt"
        with errors.open("wb") as stderr:
            self._process = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
        deadline = time.monotonic() + 60
        while not self._greets():
            if self._process.poll() is not None:
                missing(f"dovecot does not start: {errors.read_text(errors='replace')} {self.log()}")
            if time.monotonic() > deadline:
                pytest.fail(f"dovecot does not answer: {self.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it; its mailbox stays.

        The process of a client that still sends commands outlives Dovecot itself by half a minute, so what is left of
        its process group is killed.
        """
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=60)

    def remove(self) -> None:
        """Stop it and delete everything."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def url(self, folder: str = "INBOX", options: str = "", password: str = PASSWORD, scheme: str = "imaps") -> str:
        """Return the URL of a folder."""
        port = self.tls_port if scheme == "imaps" else self.port
        user, secret = quote(USER, safe=""), quote(password, safe="")
        return f"{scheme}://{user}:{secret}@localhost:{port}/{quote(folder)}{options}"

    def client(self) -> imaplib.IMAP4_SSL:
        """Return a logged-in client that shares no code with ours."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        client = imaplib.IMAP4_SSL("localhost", self.tls_port, ssl_context=context, timeout=60)
        client.authenticate("PLAIN", lambda _: f"\0{USER}\0{PASSWORD}".encode())
        return client

    def append(self, *mails: bytes, folder: str = "INBOX", flags: str = "") -> None:
        """Put mails with these flags into a folder, which is created if need be."""
        with self.client() as client:
            client.create(f'"{folder}"')
            for mail in mails:
                answer, _ = client.append(f'"{folder}"', flags, "", mail)
                assert answer == "OK"

    def flags(self, folder: str = "INBOX") -> list[str]:
        """Return the flags of each mail in a folder."""
        with self.client() as client:
            _, (count,) = client.select(f'"{folder}"', readonly=True)
            if count == b"0":
                return []
            _, rows = client.fetch("1:*", "(FLAGS)")
            flags = (imaplib.ParseFlags(row) for row in rows if isinstance(row, bytes))
            return [" ".join(sorted(flag.decode() for flag in one if flag != b"\\Recent")) for one in flags]

    def count(self) -> int:
        """Return how many mails the inbox has, without asking the server."""
        return sum(1 for name in ("new", "cur") for _ in (self.home / "mail" / name).glob("*"))

    def log(self) -> str:
        """Return its log."""
        path = self.home / "dovecot.log"
        return path.read_text() if path.exists() else "(no log)"

    def _greets(self) -> bool:
        try:
            with imaplib.IMAP4("127.0.0.1", self.port, timeout=5):
                return True
        except (OSError, imaplib.IMAP4.error):
            return False

    def _write_files(self) -> None:
        home = self.home
        home.chmod(0o755)
        for name in ("run", "mail"):
            (home / name).mkdir()
        shutil.chown(home / "mail", "nobody")
        (home / "dovecot.conf").write_text(_CONF.format(home=home, port=self.port, tls_port=self.tls_port))
        (home / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(home / "server.pem")
