"""The calls of the API, by what they are about; each module lists its `OPERATIONS`."""
