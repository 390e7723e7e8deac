"""The sandbox: stand-ins for an SMTP server, Qiscus and Meta, which accept and show messages, and fail on demand."""
