"""A third channel, as a developer would add it: text messages over a line protocol, in one folder."""
