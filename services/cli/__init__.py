"""The command `kurir`: starts the whole system on one machine, and controls a running one through its API."""
