"""PROCESS. The launcher: it starts suite and worker side by side, decides, and keeps the listening socket.

1. `start` is one try to serve: it enters, checks, and hands over to the supervisor if nothing blocks.
2. `entry` is a start among others of its address: the start lock, what tells others of it, the instance it replaces.
3. `checks` is one run of the checks: spawn suite and worker, drive them, and bring back the result. Checks that start
   nothing, and the rounds of ``--wait`` and ``--watch``, are the same run without the rest.
4. `shown` is what people and files get of runs: the terminal, the published report, the audit.
5. `supervisor` is a serving instance: its worker is started again when it crashes, drained when asked, handed over
   when replaced. `processes.restarts` decides when to give that up. `watchdog` ends a worker that hangs, `replacement`
   is the instance before this one, which goes on until a worker has given `proof` that it answers, `reruns` are those
   that the worker wants, and `drain` is a worker's end in order.
6. `telling` is what people are told of all that.

Nothing heavy is imported before both children run, and the application, pydantic and asyncio never are.
"""
