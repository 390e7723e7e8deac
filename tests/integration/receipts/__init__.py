"""The receipts service on real servers."""
