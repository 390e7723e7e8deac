"""What ingest itself keeps in Redis: idempotency records, request limits and templates."""
