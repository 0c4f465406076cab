"""PROCESS. The suite: pytest runs the requirements, and the suite enforces their declarations and reports them.

A run uses these modules in this order:

1. `__main__` meets the launcher (`link`) and starts pytest. Plain `pytest preflight` has no launcher, and does the
   launcher's part itself (`alone`).
2. `preflight.plugin` registers `fixtures`; `plugin` registers the `run`, its `collection`, its `stages` and its report.
   The collection reads the `declarations`. The stages leave out requirements that do not apply (`applicability`), keep
   the `deadlines`, name the `outcomes`, and add them to the `findings`.
3. `soundness` asks whether assertions are executed. `collection` asks whether the running code is that of the files
   (`sources`), and whether a requirement of theirs is lost (`uncollected`). `witness` asks whether each body has run,
   `hearing` what has failed in threads that it has started, `unretrieved` what pools and loops keep, `unawaited` what
   nobody has awaited, and `cleanup` whom the end of something shared concerns.
4. `inquiries` begins everything that takes long at once, when the run begins: `probes` asks the network (`asking` is
   one such question), `database` the fleet's database, `answers` runs the probes of ready-made requirements.
   Requirements judge the answers. `memory` measures the memory that the control groups leave.
5. `claim` finds, frees and holds the port, last of all; `occupied` does so if a process holds it. `claimed` is the
   result.

The functions that a requirement may use are in `preflight.contract`. Nothing here knows the launcher or imports the
application.
"""

from preflight import bytecode

bytecode.repair()  # before the first module that could need it
