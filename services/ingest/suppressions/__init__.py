"""Suppressions in the API: their views and ids, search, import and export."""
