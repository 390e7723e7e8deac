"""The sandbox: an SMTP server and a Qiscus stand-in that accept all messages, show them, and fail on demand."""
