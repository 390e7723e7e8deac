"""`python -m services.cli`, an alias of the command `kurir`."""

from services.cli.main import run

run()
