"""Code that several services share: domain types, the queue, the sending loop, rendering, and process plumbing."""
