"""Blasts: from the body of a request to jobs on the queue.

A body of any form (`request_body`) is read twice at most. First pass: each recipient is checked by itself
(`recipient_checker`), accepted ones are kept in a `spool` (memory, then disk), fingerprints of their addresses find
the `duplicates`, and the totals are known at its end. Then the blast's snapshot is created, and the second pass
(`enqueueing`) turns the spool into chunks of jobs. Their order is the same whenever the same body is sent again, so a
repeated call adds exactly what is missing. `submission` runs it all.

Strict or permissive: a strict blast is refused as a whole if there is any problem; a permissive one queues what was
accepted. With permissive rules a missing or invalid address, or a WhatsApp parameter that does not fit, drops that
channel only (its place in `Accepted.addresses` is empty); with strict rules each of these is a problem of the
recipient. Accepted addresses are in normal form.
"""
