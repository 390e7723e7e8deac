"""The command `kurir`, also as `python -m services.cli`."""

from shared.importing import never_collected

with never_collected():
    from services.cli.main import run

if __name__ == "__main__":
    run()
