"""Ingest's own data in Redis: idempotency records, request limits, open blasts and templates."""
