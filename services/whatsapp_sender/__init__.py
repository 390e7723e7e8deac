"""The WhatsApp sender: sends template messages through Qiscus or through Meta's own API."""
