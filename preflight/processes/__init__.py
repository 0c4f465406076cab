"""Child processes as their parent sees them, and what parent and child share.

1. `interpreter` decides which of Python's and pytest's variables and options a child gets.
2. `children` starts a child with a process group and a `channel` of its own, and ends it with all that it has started.
3. `loop` waits for readable descriptors, for children and for signals, without asyncio.
4. `suite` is one run of the suite, from its start to its result; `rerun` is a run beside a server that serves.
5. `worker` is one worker, from its import to its end. `heartbeat` tells whether its event loop turns, and `stacks`
   where it stands if not. `openfiles` is how many files it may open.

`signals` is for every process that ends when it is asked to. What runs in the children is in `preflight/suite/`,
`preflight/worker/` and `preflight/notify/`; nothing here imports pytest, an application or Apprise.
"""
