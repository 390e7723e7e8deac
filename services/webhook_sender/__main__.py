"""Entry point of `python -m services.webhook_sender`."""

from services.webhook_sender.main import run

run()
