"""Recipients: the identity of an address, by which the log finds other spellings of it.

The log keeps addresses as they were sent to, and their identities where those differ. A search matches the beginning of
either (`shared.addresses.ways_written`), and each has an index.
"""

from __future__ import annotations

from shared.addresses import identity


def other_identity(address: str) -> str | None:
    """Return the identity of an address, or None if it is the address itself."""
    own = identity(address)
    return own if own != address else None
