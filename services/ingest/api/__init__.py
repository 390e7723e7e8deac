"""The calls of the API, grouped by subject; each module lists its `OPERATIONS`."""
