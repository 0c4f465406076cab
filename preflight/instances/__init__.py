"""Launchers that serve, as they find, ask and replace one another.

1. `runtime` is where launchers of one user meet: the runtime folder and the start lock.
2. `presence` shows a launcher to others: a record in that folder, and a control socket (`unixsockets`).
3. `neighbours` asks the processes that hold a port who they are, and decides what a start does about them.
4. `records` is what they say to each other: who an instance is, and how its socket is handed over.

Nobody is stopped here: a neighbour is asked to retire, or it is a holder of the port like any other.
"""
