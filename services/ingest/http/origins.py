"""Origins: whether a request that a browser sent comes from a page of Kurir itself.

A cookie is sent by the browser, whatever page caused the request. `SameSite=Strict` keeps other sites out, but not
another program on the same host: ports do not separate sites. So a request with the console's cookie must come from
the console's own origin. Browsers say so in `Sec-Fetch-Site` where the page was loaded securely, and in `Origin` for
every request that may change something; scripts of a page can set neither.
"""

from __future__ import annotations

from collections.abc import Mapping

_SAFE = frozenset({"GET", "HEAD"})
# "none": the user typed the address, or opened a bookmark
_OWN, _TYPED = "same-origin", "none"


def is_foreign(method: str, headers: Mapping[str, str], public_url: str) -> bool:
    """Return whether a request with a cookie may be another page's doing.

    A request that may change something must prove that it is ours; one that only reads must not be another's.
    """
    site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
    if site is not None:
        return site != _OWN and not (site == _TYPED and method in _SAFE)
    if origin is not None:
        return not is_own_origin(origin, headers.get("Host", ""), public_url)
    return method not in _SAFE


def is_own_origin(origin: str, host: str, public_url: str) -> bool:
    """Return whether an origin is this server, as the client addresses it or as KURIR_PUBLIC_URL names it."""
    own = {f"http://{host}".lower(), f"https://{host}".lower()}
    if public_url:
        own.add("/".join(public_url.lower().split("/")[:3]))
    return origin.lower() in own
