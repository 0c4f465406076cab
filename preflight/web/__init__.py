"""What a guarded application can show of itself, and who may see it.

`mount` puts it before and beside an application's own routes. In the order in which a request meets it:

1. `guard` asks `access` whether the request may go on, which decides from its headers alone, and gives every answer its
   `headers`. Wrong tokens wait in `throttle`.
2. `routes` is the table of routes, in the words of `routing` and `schemas`: what answers each, who may see it, and what
   the OpenAPI document says of it. /health and /diagnostics are answered before the framework's own way.
3. `endpoints` are what answers. They answer from the `services` of the serving application: `snapshot`, the newest
   trustworthy report of this address, and its `projection`; `past`, the runs before; `reruns`, and their `followers`;
   `metrics`; and `instance`, the application's only way to its launcher.

`start` runs the suite for an application that another server has started; `bound` finds out that server's address, and
`logs` keeps secrets out of what it logs.

Its values are named tuples: making a frozen dataclass takes eight times as long (0.8 ms), and every start waits for it.
A GET never runs a check. Nothing here knows what the application itself does, or which framework it uses, beyond
Starlette's interfaces.
"""
