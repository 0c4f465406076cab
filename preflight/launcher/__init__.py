"""PROCESS. The launcher: it starts suite and worker side by side, decides, and keeps the listening socket.

1. `start` is one attempt to serve: it enters, checks, and hands over to the supervisor if nothing blocks.
2. `entry` coordinates a start with others of its address: the start lock, the record and control socket that tell
   others of it, and the instance that it replaces.
3. `checks` is one run of the checks: it spawns suite and worker, drives them, and brings back the result. Checks that
   start nothing, and the rounds of ``--wait`` and ``--watch``, are the same run without the later steps.
4. `shown` is the output of runs for people and files: the terminal, the published report, the audit.
5. `supervisor` is a serving instance: its workers are started again when they crash, drained when asked, handed over
   when replaced. There is a `slot` for each worker, and `workers` is what all of them share. `processes.restarts`
   decides when the launcher gives up. `watchdog` ends a worker that hangs. `replacement` handles the previous instance,
   which goes on until each worker has given `proof` that it answers. `reruns` handles the re-runs that workers ask for,
   and `drain` is the orderly end of the workers.
6. `telling` notifies people of all these events, and `servicestatus` tells systemd.

Before both children run, nothing heavy is imported; the application, pydantic and asyncio are never imported.
"""
