"""The benchmarks: Kurir against the system it replaces, in one run on one machine. `python -m benchmarks --help`."""
