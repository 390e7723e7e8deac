"""The service that clients talk to: it takes blasts, checks them whole, and puts their jobs on the queue."""
