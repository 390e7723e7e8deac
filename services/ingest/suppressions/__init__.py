"""Suppressions as the API sees them: how they are shown and named, searched, and read from files."""
