"""The HTTP layer: what every request passes on its way in and out.

`app` routes a request through the `middleware` to its `operation`; `bodies` and `decoding` read its body into the types
of `requests`; `responses` and `errors` define the answers. `gateway` holds the parts that a handler may use.
"""
