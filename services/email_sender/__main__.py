"""Entry point of `python -m services.email_sender`."""

from services.email_sender.main import run

run()
