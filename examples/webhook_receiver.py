"""Receives Kurir's webhooks: checks each signature, and handles each event once, however often it arrives.

WEBHOOK_SECRET=whsec_… python examples/webhook_receiver.py 8080

It listens on loopback, behind your web server; with WEBHOOK_HOST=0.0.0.0, on every address, as in a container. What it
has handled is in webhooks.db.
"""

import base64
import hmac
import json
import os
import sqlite3
import sys
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(os.environ["WEBHOOK_SECRET"].removeprefix("whsec_"))


def handle_once(event: dict[str, object]) -> None:
    """Print an event that was not handled before; an exception here makes Kurir send it again later."""
    with closing(sqlite3.connect("webhooks.db")) as database, database:  # a transaction: noted only if it was handled
        database.execute("CREATE TABLE IF NOT EXISTS seen (id TEXT PRIMARY KEY)")
        if database.execute("INSERT OR IGNORE INTO seen VALUES (?)", (event["id"],)).rowcount:
            print(event["timestamp"], event["type"], json.dumps(event["data"]), flush=True)


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 once every event of a request is handled, and 401 if Kurir did not sign it just now."""

    def do_POST(self) -> None:
        """Check the signature of the bytes as they arrived, then handle the events."""
        body = self.rfile.read(int(self.headers["content-length"]))
        webhook_id, signed_at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        ours = hmac.digest(KEY, f"{webhook_id}.{signed_at}.".encode() + body, "sha256")
        sent = self.headers.get("webhook-signature", "").split()
        signed = any(hmac.compare_digest(b"v1," + base64.b64encode(ours), one.encode()) for one in sent)
        if genuine := signed and abs(time.time() - int(signed_at)) < 300:
            event = json.loads(body)
            for one in event["data"] if event["type"] == "batch" else [{"id": webhook_id, **event}]:
                handle_once(one)
        self.send_response(204 if genuine else 401)
        self.end_headers()


if __name__ == "__main__":
    ThreadingHTTPServer((os.environ.get("WEBHOOK_HOST", "127.0.0.1"), int(sys.argv[1])), Receiver).serve_forever()
