"""Entry point of `python -m services.ingest`."""

from shared.importing import never_collected

with never_collected():
    from services.ingest.main import run

run()
