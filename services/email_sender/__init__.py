"""The email sender: jobs of the channel `email`, handed to SMTP servers.

`channel` says how one message is sent, `replies` what the servers' answers mean, `message` how a blast becomes mail,
`servers` which server takes it, `connection` and `protocol` how SMTP is spoken.
"""
