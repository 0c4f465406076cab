"""The sessions in PostgreSQL, for many instances: any of them resumes any session.

1. `tables` are the tables, which a start makes if there are none, and which ``--migrate`` changes.
2. `database` has the connections. What fails because the server went away is tried again, for a moment.
3. `store` is the interface, by the statements of `statements`. A turn belongs to an instance by a lease, on the
   database's clock; `leases` renews it while the turn runs. An instance that takes a turn over raises its epoch, and
   later writes of the former owner about that turn are refused.
4. `checkpoints` has the bounded memory of the graph, through LangGraph's own checkpointer. `imports` adds the sessions
   of a file.

Everything goes through PgBouncer in transaction mode. Nothing here is imported if there is no database.
"""
