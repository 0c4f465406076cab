"""The stored data of the chat, in one SQLite file or in PostgreSQL.

`model` has what is stored, and the interface that both engines meet; `opening` chooses the engine. For a file,
`database` is the file and the thread that works on it, `store` has the sessions, their transcripts and the turns that
are not answered yet, and `checkpoints` has the bounded memory of the graph itself. `postgres/` has the same for many
instances, and is imported only if there is a database.
"""
