"""Recipients: by what the log knows an address besides its spelling.

The log holds addresses as they were sent to, and their identities where those differ. A search is for the beginning of
either (`shared.addresses.ways_written`), each looked up in an index.
"""

from __future__ import annotations

from shared.addresses import identity


def other_identity(address: str) -> str | None:
    """Return the identity of an address, None where that is the address itself."""
    own = identity(address)
    return own if own != address else None
