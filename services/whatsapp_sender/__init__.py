"""The WhatsApp sender: template messages through the Qiscus API, one job after the other."""
