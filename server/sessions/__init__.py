"""What is kept of the chat, in one SQLite file.

`database` is the file and the thread that works on it. `store` has the sessions, their transcripts and the turns that
are not answered yet; `checkpoints` has the graph's own memory, bounded.
"""
