"""The receipts service: reads what providers and mail servers said about messages, and emits it as events.

Ingest and the readers of bounce mail add each request and mail, whole, to the stream `receipts`. `consumer` takes the
entries from it, `providers` and `mail` read them as receipts, and the logger applies the events.
"""
