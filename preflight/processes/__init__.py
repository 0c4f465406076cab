"""Child processes as their parent sees them, and the code that parent and child share.

1. `interpreter` decides which of Python's and pytest's variables and options a child gets.
2. `children` starts a child with a process group and a `channel` of its own, and ends it with all processes that it has
   started.
3. `loop` waits for readable descriptors, for children and for signals, without asyncio.
4. `suite` is one run of the suite, from its start to its result; `rerun` is a run beside a serving server.
5. `worker` is one worker, from its import to its end. `heartbeat` tells whether its event loop runs, and `stacks` shows
   where the loop hangs if not. `board` is what several workers of one instance count in together. `openfiles` decides
   how many files a process may open.

`servicemanager` reports the launcher to systemd, if systemd has started it. `signals` is for every process that
ends when it is asked to. The code of the children is in `preflight/suite/`, `preflight/worker/` and
`preflight/notify/`; nothing here imports pytest, an application or Apprise.
"""
