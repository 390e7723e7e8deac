"""The sandbox: an SMTP server and a Qiscus look-alike that accept everything, show it, and fail on demand."""
