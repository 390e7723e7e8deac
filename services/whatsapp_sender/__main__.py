"""Entry point of `python -m services.whatsapp_sender`."""

from shared.importing import never_collected

with never_collected():
    from services.whatsapp_sender.main import run

run()
