"""The image's health check: request the health of this container's service and print the answer.

It runs every few seconds next to each service, so it imports very little: a whole HTTP client would use more CPU time
than the idle service itself.
"""

from __future__ import annotations

import os
import socket
import sys

_TIMEOUT_S = 4.0
_DEFAULT_PORT = 3000


def main() -> int:
    """Return 0 if `GET /health` answers 200, else 1 with the answer on stdout."""
    port = int(os.environ.get("KURIR_PORT") or _DEFAULT_PORT)
    try:
        status, answer = _ask(port)
    except OSError as error:
        sys.stdout.write(f"port {port}: {error}\n")
        return 1
    sys.stdout.write(f"{answer}\n")
    return 0 if status == "200" else 1


def _ask(port: int) -> tuple[str, str]:
    with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    head, _, body = answer.decode(errors="replace").partition("\r\n\r\n")
    words = head.split(maxsplit=2)
    return (words[1] if len(words) > 1 else "no answer"), body


if __name__ == "__main__":
    sys.exit(main())
