"""PROCESS. The suite: pytest runs the requirements, and the suite enforces their declarations and reports them.

A run uses these modules in this order:

1. `__main__` meets the launcher (`link`) and starts pytest. Plain `pytest preflight` has no launcher, and does the
   launcher's part itself (`alone`).
2. `preflight.plugin` registers `fixtures` and has `plugin` register the `run`: the `collection`, the `stages` and the
   report, which `plugin` makes. The collection reads the `declarations`. The stages leave out requirements that do not
   apply (`applicability`), keep the `deadlines`, name `outcomes`, and come together in `findings`.
3. `soundness` asks whether assertions are executed. `collection` asks whether the running code is that of the files
   (`sources`), and whether a requirement of theirs is lost (`uncollected`). `witness` asks whether each body has run.
4. `inquiries` asks what takes long from the beginning of the run, all at once: `probes` the network (`asking` is one
   such question), `database` the fleet's database, `answers` the probes of ready-made requirements. Requirements judge
   the answers. `memory` measures the memory that the control groups leave.
5. `claim` finds, frees and holds the port, last of all; `occupied` does so if somebody has it. `claimed` is how that
   went.

The functions that a requirement may use are in `preflight.contract`. Nothing here knows the launcher or imports the
application.
"""

from preflight import bytecode

bytecode.repair()  # before the first module that could need it
