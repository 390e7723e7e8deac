"""The command `kurir`: starts the whole system on one machine, and speaks to a running one through its API."""
