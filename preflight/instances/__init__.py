"""How serving launchers find, ask and replace each other.

1. `runtime` is the place where launchers of one user find each other: the runtime folder and the start lock.
2. `presence` shows a launcher to others: it makes a record in that folder, and a control socket (`unixsockets`).
3. `neighbours` asks the processes that hold a port for their identity.
4. `decision` says what a start does about them: replace, leave alone, or refuse. `wishes` tells whether an instance is
   what the start has asked for.
5. `records` defines their messages: the identity of an instance, and the handover of its socket.

Nothing here stops a process: a neighbour is asked to retire, or it is treated like any other holder of the port.
"""
