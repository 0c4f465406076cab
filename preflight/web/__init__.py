"""What a guarded application can show about itself, and to whom.

`mount` puts these routes and the guard before and beside an application's own routes. A request passes these modules in
this order:

1. `guard` asks `access`, which reads only a request's headers and its peer, whether the request may go on, and gives
   every answer its `headers`. `logincookies` prove a login, `proxies` name the client that they ask for, and wrong
   tokens wait in `throttle`.
2. `routes` is the table of routes, in the terms of `routing` and `schemas`: the endpoint of each route, who may see it,
   and what the OpenAPI document says about it. /health and /diagnostics are answered before the framework's routing.
3. `endpoints` answer from the `services` of the serving application: `snapshot`, the newest trustworthy report of this
   address, and its `projection`; `past`, the earlier runs; `reruns`, and their `followers`; `metrics`; and `instance`,
   the application's only way to its launcher, and to the other workers, its `fellows`.

`beside` puts all of this under a prefix, beside an application that knows nothing of it: `logins` open it there, and
`extra` says which packages are missing.

`start` runs the suite for an application that another server has started; `bound` finds that server's address, and
`logs` keeps secrets out of that server's logs. `guarding` combines this start and `beside` for any application, and
`group` has what the processes of its server share. `interfaces` tells what kind of application an object is.

Values here are named tuples: making a frozen dataclass takes eight times as long (0.8 ms), and every start waits for
it. A GET never runs a check. Nothing here knows what the application itself does, or which framework it uses, beyond
Starlette's interfaces; `interfaces` knows some packages whose objects are no applications.
"""
