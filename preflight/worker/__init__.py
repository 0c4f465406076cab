"""PROCESS. The worker: it imports the application while the suite runs, and serves it after the verdict.

1. `__main__` hears the launcher and obeys: import, serve, drain.
2. `listening` keeps the application from listening before the verdict.
3. `application` imports the application, calls its factory, and refuses by name what cannot be served.
4. `serving` is uvicorn with an orderly end. `protocol` and `websocket` are uvicorn's protocols with limits on what a
   client may send.

It never decides anything: it serves when it is told to. Its parent's side is `preflight.processes.worker`.
"""
