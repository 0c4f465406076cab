"""The stored data of the chat, in one SQLite file.

`database` is the file and the thread that works on it. `store` has the sessions, their transcripts and the turns that
are not answered yet; `checkpoints` has the bounded memory of the graph itself.
"""
