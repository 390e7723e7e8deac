"""WhatsApp's error codes and the outcome that each means for a message.

Sources: Meta's list of Cloud API error codes (developers.facebook.com, WhatsApp, support, error codes) and the Graph
API's guides to errors and rate limits. Meta answers with the codes, and Qiscus passes them on.
"""

from __future__ import annotations

from shared.errors import PermanentError, SendError, StopBlastError, StopChannelError, TransientError, TryLaterError

# Temporary limits: of the app (4, 17, 32, 341, 613), of the business account (800xx), of the number's throughput
# (130429), of the recipient (131056), of a flow within one hour (132069), of registrations (133016).
DEFERRED = frozenset({4, 17, 32, 341, 613, 130429, 131056, 132069, 133016, *range(80000, 80015)})

# Errors at Meta that this message may have caused: unknown (1), internal (131000).
TRANSIENT = frozenset({1, 131000})

# Overload (2), unavailable service (131016), maintenance (131057), start-up (133004): try later, this is no refusal.
TRY_LATER = frozenset({2, 131016, 131057, 133004})

# The recipient opted out of this business's marketing; only the recipient can undo it.
OPTED_OUT = 131050

# Not to this recipient: a country that the business may not write to (130497), a user in an experiment (130472), an
# address that is not a phone number (131062), a changed identity key (137000), and the rest as Meta names them.
PERMANENT_RECIPIENT = frozenset({130472, 130497, 131021, 131026, 131030, 131047, 131049, OPTED_OUT, 131062, 137000})

# The request does not fit the template, or its type or media are not supported (131051 to 131053).
PERMANENT_DATA = frozenset(
    {100, 131008, 131009, 131051, 131052, 131053, 132000, 132001, 132005, 132007, 132008, 132012, 135000}
)

# "Unknown path components": the base URL or its version is wrong.
UNKNOWN_PATH = 2500

# Credentials and permissions (0, 3, 10, 101, 102, 104, 190, 200 to 299, 131005); our own number: deleted (33), not
# registered (133010), with a wrong certificate (131045) or a display name that is not approved (131037); payment
# (131042, 131044); an account that is locked (368, 131031) or restricted as a whole (131048: spam, 131064: templates in
# a wrong category); no such path, so the URL or its version is wrong (2500).
STOP = frozenset(
    {0, 3, 10, 33, 101, 102, 104, 190, *range(200, 300), 368, UNKNOWN_PATH}
    | {131005, 131031, 131037, 131042, 131044, 131045, 131048, 131064, 133010}
)

# No message of this template is accepted until an operator acts: paused (132015), disabled (132016), marketing
# templates switched off for this API (131063), a flow in it that is blocked (132068) or unusable (139000 to 139004).
STOP_BLAST = frozenset({131063, 132015, 132016, 132068, *range(139000, 139005)})

KINDS: dict[int, type[SendError]] = {
    **dict.fromkeys(TRANSIENT, TransientError),
    **dict.fromkeys(TRY_LATER, TryLaterError),
    **dict.fromkeys(PERMANENT_RECIPIENT | PERMANENT_DATA, PermanentError),
    **dict.fromkeys(STOP, StopChannelError),
    **dict.fromkeys(STOP_BLAST, StopBlastError),
}
KNOWN = DEFERRED | frozenset(KINDS)

# Meta's subcode of 100 for "the object does not exist": the number that messages are sent from is unknown.
NO_SUCH_NUMBER = 33
