"""Debian's Postfix as processes: master, smtpd, queue manager and virtual delivery, in a folder of its own.

It offers STARTTLS with a certificate of its own authority and AUTH by Cyrus SASL's password file, accepts mail for
example.com from clients that have logged in, and delivers it into a Maildir. It installs and requires nothing else,
but only root can run Postfix.
"""

from __future__ import annotations

import email
import email.policy
import os
import shutil
import socket
import subprocess
import tempfile
import time
from email.message import EmailMessage
from pathlib import Path

import pytest
import trustme

from tests.debian import missing, unpacked
from tests.servers import free_port

REALM = "example.net"
USER = "kurir"
_QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "maildrop", "pid",
           "private", "public", "saved", "trace")  # fmt: skip
_MAIN_CF = """\
compatibility_level = 3.6
queue_directory = {home}/spool
command_directory = {root}/usr/sbin
daemon_directory = {root}/usr/lib/postfix/sbin
shlib_directory = {root}/usr/lib/postfix
meta_directory = {home}/etc
data_directory = {home}/data
mail_owner = daemon
setgid_group = mail
default_privs = nobody
import_environment = MAIL_CONFIG LD_LIBRARY_PATH SASL_PATH LANG=C
maillog_file = {home}/mail.log
maillog_file_prefixes = {home}
myhostname = mx.example.net
mydestination =
mynetworks =
fast_flush_domains =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = cyrus
smtpd_sasl_path = smtpd
smtpd_sasl_local_domain = {realm}
smtpd_tls_security_level = may
smtpd_tls_auth_only = yes
smtpd_tls_chain_files = {home}/etc/server.pem
smtpd_recipient_restrictions = check_recipient_access inline:{{ {{ gone@example.com = 550 5.1.1 no such user }},
    {{ grey@example.com = 450 4.2.0 Greylisted, try again in 300 seconds }} }}, permit_sasl_authenticated, reject
smtpd_error_sleep_time = 0
virtual_mailbox_domains = example.com
virtual_mailbox_base = {home}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
virtual_transport = virtual
"""
_MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
127.0.0.1:{tls_port} inet n - n - - smtpd
    -o smtpd_tls_wrappermode=yes
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
proxymap unix - - n - - proxymap
error unix - - n - - error
retry unix - - n - - error
virtual unix - n n - - virtual
smtp unix - - n - - smtp
anvil unix - - n - 1 anvil
postlog unix-dgram n - n - 1 postlogd
"""
_SASL_CONF = (
    "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nsasldb_path: {home}/etc/sasldb2\nmech_list: PLAIN LOGIN\n"
)


class Postfix:
    """A running Postfix; `ca_file` is the authority of its certificate, which is issued to `localhost`."""

    def __init__(self, more: str = "") -> None:
        """Prepare a server; `more` are lines of its main.cf."""
        if os.geteuid() != 0:
            missing("only root may run postfix")
        self.port, self.tls_port = free_port(), free_port()
        self._root = Path("/") if shutil.which("postfix", path="/usr/sbin") else unpacked("postfix")
        self.home = Path(tempfile.mkdtemp(prefix="kurir-postfix-"))
        self.ca_file = self.home / "etc" / "ca.pem"
        self._environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(self._root / "usr/lib/postfix"),
            "MAIL_CONFIG": str(self.home / "etc"),
            "SASL_PATH": str(_sasl_plugins()),
        }
        self._more = more
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait for its greeting."""
        self._write_files()
        self.set_password("right")
        master = self._root / "usr/lib/postfix/sbin/master"
        self._process = subprocess.Popen([str(master), "-c", str(self.home / "etc"), "-d"], env=self._environment)
        deadline = time.monotonic() + 60
        while not self._greets():
            if time.monotonic() > deadline or self._process.poll() is not None:
                pytest.fail(f"postfix does not start: {self.log()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop it and delete everything."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=60)
        shutil.rmtree(self.home, ignore_errors=True)

    def set_password(self, password: str) -> None:
        """Set the password of the one account."""
        program = shutil.which("saslpasswd2") or str(unpacked("sasl2-bin") / "usr/sbin/saslpasswd2")
        database = self.home / "etc" / "sasldb2"
        command = [program, "-p", "-c", "-f", str(database), "-u", REALM, USER]
        subprocess.run(command, input=password.encode(), check=True, env=self._environment, capture_output=True)
        shutil.chown(database, "daemon")

    def url(self, password: str = "right", scheme: str = "smtp", options: str = "") -> str:
        """The URL for the settings of a sender that logs in."""
        port = self.tls_port if scheme == "smtps" else self.port
        return f"{scheme}://{USER}%40{REALM}:{password}@localhost:{port}{options}"

    def mailbox(self) -> list[bytes]:
        """Return the delivered messages as stored in the mailbox."""
        return [path.read_bytes() for path in sorted(self.home.glob("mail/all/new/*"))]

    def delivered(self) -> list[EmailMessage]:
        """Return the delivered messages, parsed."""
        found = []
        for raw in self.mailbox():
            message = email.message_from_bytes(raw, policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            found.append(message)
        return found

    def log(self) -> str:
        """Return its log."""
        path = self.home / "mail.log"
        return path.read_text() if path.exists() else "(no log)"

    def _greets(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
                return connection.recv(100).startswith(b"220 ")
        except OSError:
            return False

    def _write_files(self) -> None:
        home, etc = self.home, self.home / "etc"
        home.chmod(0o755)
        for name in ("etc/sasl", "data", "mail", *(f"spool/{queue}" for queue in _QUEUES)):
            (home / name).mkdir(parents=True)
        for name in ("data", *(f"spool/{queue}" for queue in _QUEUES if queue != "pid")):
            shutil.chown(home / name, "daemon", "mail" if name.endswith(("maildrop", "public")) else None)
        shutil.chown(home / "mail", "nobody")
        places = {"home": home, "root": self._root, "realm": REALM, "port": self.port, "tls_port": self.tls_port}
        (etc / "main.cf").write_text(_MAIN_CF.format(**places) + self._more)
        (etc / "master.cf").write_text(_MASTER_CF.format(**places))
        (etc / "sasl" / "smtpd.conf").write_text(_SASL_CONF.format(**places))
        (etc / "dynamicmaps.cf").touch()
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(etc / "server.pem")


def _sasl_plugins() -> Path:
    """Return the folder of Cyrus SASL's plugins, from the system or from their packages."""
    for folder in Path("/usr/lib").glob("*/sasl2"):
        if (folder / "libplain.so").exists() and (folder / "libsasldb.so").exists():
            return folder
    folders = [next(unpacked(name).glob("usr/lib/*/sasl2")) for name in ("libsasl2-modules", "libsasl2-modules-db")]
    for plugin in folders[1].iterdir():
        if not (folders[0] / plugin.name).exists():
            # another test process may start a server in this moment, which must not find half a plugin
            half = Path(shutil.copy(plugin, folders[0] / f".{os.getpid()}-{plugin.name}"))
            half.replace(folders[0] / plugin.name)
    return folders[0]
