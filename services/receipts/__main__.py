"""Entry point of `python -m services.receipts`."""

from services.receipts.main import run

run()
