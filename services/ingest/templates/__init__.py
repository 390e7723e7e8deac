"""Templates: read from files and from the API, checked as a whole, stored in Redis for all ingest processes.

`checking` finds every problem of a template, `files` reads YAML files, `requests` defines the API's form of a template;
`services.ingest.storage.templates` stores them.
"""
