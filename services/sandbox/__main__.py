"""Entry point of `python -m services.sandbox`."""

from services.sandbox.main import run

run()
