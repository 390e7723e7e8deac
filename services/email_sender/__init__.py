"""The email sender: hands jobs of the channel `email` to SMTP servers.

`channel` sends one message, `replies` interprets the servers' replies, `message` turns a blast into mail, `servers`
chooses the server, and `connection` and `protocol` speak SMTP.
"""
