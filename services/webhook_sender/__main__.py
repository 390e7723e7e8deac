"""Entry point of `python -m services.webhook_sender`."""

from shared.importing import never_collected

with never_collected():
    from services.webhook_sender.main import run

run()
