"""The agent server that the preflight guards: the first application of many.

`app` mounts `chat` beside what every guarded application can show (:mod:`preflight.web`). The chat asks the `agent`,
and both keep what they must not lose in `sessions`. `about` is what the server says of itself.
"""
