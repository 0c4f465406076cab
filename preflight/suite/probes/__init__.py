"""Probes: what a run finds out about the network, the machine, the database and the installation.

A probe asks one thing, returns what it found, and never judges: requirements do. A run needs these modules in this
order:

1. `network` has the questions to providers, and begins them all when the run begins. `asking` is one such question:
   `egress` decides how it leaves this machine, `clients` builds its HTTP client. `answers` runs the probes of
   ready-made requirements, and `sharing` lets re-runs share good answers with other instances. `database` asks the
   fleet's database.
2. `imports` tries in a process of its own which installed distributions can be imported; `extras` adds what their
   extras need. `memory` measures what the control groups leave. `certificates` and `logconfig` look at files.

`preflight.suite.inquiries` begins what takes long. Nothing here knows the run or a requirement.
"""
