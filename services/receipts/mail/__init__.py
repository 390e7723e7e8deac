"""Bounce mail: how it comes in (SMTP, IMAP), and how it is read."""
