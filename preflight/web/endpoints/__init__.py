"""The endpoints of the routes of :mod:`preflight.web.routes`, with a file for each subject.

Each endpoint answers from the :class:`preflight.web.services.Services` in the request's state, and stores only answers
that it has made before. `health` and `diagnostics` are ASGI applications, because they get the most requests; the
others are functions from Starlette's request to its response.
"""
