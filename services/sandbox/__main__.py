"""Entry point of `python -m services.sandbox`."""

from shared.importing import never_collected

with never_collected():
    from services.sandbox.main import run

run()
