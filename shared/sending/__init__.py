"""The sending loop of any channel: it fetches jobs, begins them, sends them and settles their outcomes."""
