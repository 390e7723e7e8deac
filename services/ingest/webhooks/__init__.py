"""Webhooks as clients see them: requests, their checks, and the answers; the logger owns the endpoints."""
