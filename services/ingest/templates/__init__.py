"""Templates: read from files and from the API, checked as a whole, kept in Redis for all ingest processes.

`checking` finds everything that is wrong with one, `files` reads those that ship as YAML, `requests` those that clients
write; `services.ingest.storage.templates` keeps them.
"""
