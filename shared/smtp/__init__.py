"""SMTP as both sides of Kurir speak it: what replies mean, and the server side of a session."""
