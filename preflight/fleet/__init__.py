"""Many instances on one PostgreSQL: which there are, the state of each, and what people are told about them.

1. `database` connects to what PREFLIGHT_DATABASE_URL names, and says in words for people why it cannot be used.
2. `schema` creates and migrates the tables in the schema ``preflight``: those in `sql`, and those that an application
   registers.
3. `registrar` (PROCESS, begun by `__main__`) is an instance's only writer. `membership` is the launcher's side of it:
   it imports no psycopg, and waits for nothing.
4. `rows` are what an instance writes of itself. `gathering` claims what people are to be told once for the whole fleet,
   and `grouping` makes one message of it. The launcher sends it through :mod:`preflight.notify`.
5. `queries` has the questions of the fleet's page and of ``--fleet``, which `reading` asks. `answers` has providers'
   answers, which re-runs share.

Everything goes through PgBouncer in transaction mode: nothing here keeps anything in a session of the server (no
prepared statement, no SET, no LISTEN, no advisory lock that outlives its transaction). A start gives the database only
moments (`preflight.suite.probes.database`), and of requests only the fleet page's wait for it. Without a database URL
nothing here is imported. psycopg comes with the extra ``fleet``.
"""
