"""PROCESS. The launcher: it starts suite and worker side by side, decides, and keeps the listening socket.

1. `launcher` is one start or one check: lock, children, verdict.
2. `supervisor` is a serving instance: its worker is started again when it crashes, drained when asked, handed over
   when replaced. `restarts` decides when to give that up; `proof` asks a new worker for one answer before the old one
   goes.

Nothing heavy is imported before both children run, and the application, pydantic and asyncio never are.
"""
