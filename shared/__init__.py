"""What two or more services need: the words of the domain, the queue, the sending loop, and process plumbing."""
