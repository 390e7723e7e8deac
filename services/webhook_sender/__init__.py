"""The webhook sender: posts signed events to the endpoints that clients registered."""
