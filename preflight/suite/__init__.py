"""PROCESS. The suite: pytest runs the requirements, and the suite enforces their declarations and reports them.

A run uses these modules in this order:

1. `__main__` meets the launcher and starts pytest; plain `pytest preflight` starts without it.
2. `preflight.plugin` registers `fixtures` and `plugin`, which controls the run and makes the report. It reads the
   `declarations`, leaves out requirements that do not apply (`applicability`), keeps the `deadlines`, and names
   `outcomes`.
3. `soundness` asks whether assertions are executed, `sources` whether the running code is that of the files,
   `uncollected` whether a requirement of theirs is lost, and `witness` whether each body has run.
4. `probes` asks the network, all questions at once, from the beginning of the run. Requirements judge the answers.
   `memory` measures the memory that the control groups leave.
5. `claim` finds, frees and holds the port, last of all; `occupied` does so where somebody has it. `claimed` is how that
   went.

The functions that a requirement may use are in `preflight.contract`. Nothing here knows the launcher or imports the
application.
"""

from preflight import bytecode

bytecode.repair()  # before the first module that could need it
