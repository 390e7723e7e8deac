"""Entry point of `python -m services.whatsapp_sender`."""

from services.whatsapp_sender.main import run

run()
