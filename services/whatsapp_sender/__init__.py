"""The WhatsApp sender: sends template messages through the Qiscus API."""
