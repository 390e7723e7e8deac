"""Hooks: which requests of providers are genuine. Every provider has its own way to sign, or a log-in, or neither."""
