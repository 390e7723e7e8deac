"""Entry point of `python -m services.logger`."""

from services.logger.main import run

run()
