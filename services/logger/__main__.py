"""Entry point of `python -m services.logger`."""

from shared.importing import never_collected

with never_collected():
    from services.logger.main import run

run()
