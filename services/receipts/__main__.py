"""Entry point of `python -m services.receipts`."""

from shared.importing import never_collected

with never_collected():
    from services.receipts.main import run

run()
