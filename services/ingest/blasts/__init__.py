"""Blasts: from the body of a request to jobs on the queue.

A body of any form (`request_body`) is processed in two passes. The first pass checks each recipient
(`recipient_checker`), keeps the accepted ones in a `spool` (in memory, then on disk), finds `duplicates` by the
fingerprints of their addresses, and ends with the totals. Then the blast's snapshot is created, and the second pass
(`enqueueing`) turns the spool into chunks of jobs. The same body always gives the same order, so a repeated call adds
exactly the jobs that are missing. `submission` runs both passes.

A strict blast is refused as a whole if it has any problem; a permissive one queues the recipients that were accepted.
In a permissive blast, a missing or invalid address, or an invalid WhatsApp parameter, drops only that channel (its
place in `Accepted.addresses` is empty); in a strict one, each of these refuses the recipient. Accepted addresses are
in normal form.
"""
