"""The command ``python run.py``: options, and a file for each verb.

1. `options` parses a command line into an invocation, and says what is wrong with an invalid one.
2. `line` loads the settings and calls the verb; its table has all verbs.
3. `start` and `check` (``--check-only``) run the launcher; with ``--wait`` they go through `rounds` while something
   blocks. `watch` shows round after round.
4. The other verbs need no launcher: `history`, `port` (``--port-status``, ``--free-port``), `init`, `bundle`, `notify`
   (``--test-notify``), `migrate`, and `own`: those that a project registers (the setting ``verbs``).
"""
