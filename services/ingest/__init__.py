"""The service with the HTTP API: it accepts blasts, validates them, and puts their jobs on the queue."""
