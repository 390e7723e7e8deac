"""The door: what every request passes on its way in and out, whatever it asks for.

`app` routes it to the `operation` of the table, through the `middleware`; `bodies` and `decoding` read what it carries
into the types of `requests`; `responses` and `errors` are what it gets back. `gateway` holds the parts that a handler
may use.
"""
