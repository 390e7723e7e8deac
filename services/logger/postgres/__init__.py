"""The log in PostgreSQL: the same work and the same rows as in a SQLite file, for several loggers at once."""
