"""TLS to the servers: which certificates are verified, and against which authorities."""

from __future__ import annotations

import ssl

from services.email_sender.settings import ServerSettings


class TlsContexts:
    """The TLS contexts of all servers; cached, since reading the system's authorities is slow."""

    def __init__(self, ca_file: str) -> None:
        self._ca_file = ca_file
        self._kept: dict[bool, ssl.SSLContext] = {}

    def of(self, server: ServerSettings) -> ssl.SSLContext:
        """Return the context of a server.

        Opportunistic TLS verifies only with a CA in the settings: an attacker who can forge a certificate can also
        strip TLS.
        """
        verifies = server.tls != "if-offered" or bool(self._ca_file)
        if verifies not in self._kept:
            self._kept[verifies] = self._verifying() if verifies else _trusting()
        return self._kept[verifies]

    def _verifying(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._ca_file or None)


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
