"""The command ``python run.py``: options, and a file for each thing that it can be asked for.

`line` parses the command line and does what it asks for. `waiting` repeats checks (``--wait``, ``--watch``), `history`
is ``--history``, `port` is ``--port-status`` and ``--free-port``, `bundle` is ``--bundle``.
"""
