"""PROCESS. The suite: pytest runs the requirements, and the suite enforces their declarations and reports them.

A run uses these modules in this order:

1. `__main__` meets the launcher (`link`) and starts pytest. Plain `pytest preflight` has no launcher, and does the
   launcher's part itself (`alone`).
2. `preflight.plugin` registers `fixtures`; `plugin` registers the `run`, its `collection`, its `stages` and its report.
   The collection reads the `declarations`. The stages leave out requirements that do not apply (`applicability`), keep
   the `deadlines`, name the `outcomes`, and add them to the `findings`.
3. The room `soundness` asks whether the run asks what it says it asks: whether assertions are executed, a requirement
   is lost, or an error is kept where nobody sees it.
4. `inquiries` begins everything that takes long at once, when the run begins. The room `probes` has the questions: to
   the network, the database, the machine and the installation. Requirements judge the answers.
5. `claim` finds, frees and holds the port, last of all; `occupied` does so if a process holds it. `claimed` is the
   result.

The functions that a requirement may use are in `preflight.contract`. Nothing here knows the launcher or imports the
application.
"""

from preflight import bytecode

bytecode.repair()  # before the first module that could need it
