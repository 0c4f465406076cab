"""PROCESS. The suite: requirements run by pytest, held to what they declare, and reported.

In the order in which a run goes on:

1. `__main__` meets the launcher and starts pytest; plain `pytest preflight` starts without it.
2. The checkout's conftest.py registers `plugin`, which holds the run together and makes the report. It reads the
   `declarations`, leaves out what is not applicable (`applicability`), keeps the `deadlines`, and names `outcomes`.
3. `soundness` compares what runs with what the files say: no assertion is left out, no requirement is lost.
4. `probes` asks the network, all questions at once, from the beginning of the run. Requirements judge the answers.
   `memory` measures what the control groups leave.
5. `claim` finds, frees and holds the port, last of all.

What a requirement may use is in `preflight.contract`. Nothing here knows the launcher or imports the application.
"""
