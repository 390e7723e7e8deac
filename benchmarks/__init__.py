"""The benchmarks: Kurir beside what it replaces, in one run, on one machine. `python -m benchmarks --help`."""
