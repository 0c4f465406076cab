"""PROCESS. The worker: it imports the application while the suite runs, and serves it after the verdict.

1. `__main__` carries out the launcher's messages: import, serve, drain. `reruns` has the launcher run the suite again.
2. `listening` keeps the application from listening before the verdict.
3. `application` imports the application, calls its factory, and refuses by name what cannot be served.
4. `serving` is uvicorn with an orderly end, also of the queue of its socket (`backlog`). `protocol` and `websocket` are
   uvicorn's protocols with limits on what a client may send, and `connections` on all clients together. `handshake`
   has those that are still to be encrypted.

The worker decides nothing: it serves when the launcher tells it to. Its parent's side is `preflight.processes.worker`.
"""

from preflight import bytecode

bytecode.repair()  # before the first module that could need it
