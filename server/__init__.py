"""The agent server that the preflight guards: the first application of many.

`app` mounts `chat` beside the routes of every guarded application (:mod:`preflight.web`). The chat asks the `agent`,
and both store their lasting data in `sessions`. `about` describes the server itself.
"""
