"""What answers the routes of :mod:`preflight.web.routes`, a file a subject.

Each answers from the :class:`preflight.web.services.Services` that are in the request's state, and keeps nothing but
answers that it made before. `health` and `diagnostics` are ASGI applications, because they are asked most often; the
others are functions from Starlette's request to its response.
"""
