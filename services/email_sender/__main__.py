"""Entry point of `python -m services.email_sender`."""

from shared.importing import never_collected

with never_collected():
    from services.email_sender.main import run

run()
