"""`python -m services.cli`: the same as the command `kurir`."""

from services.cli.main import run

run()
