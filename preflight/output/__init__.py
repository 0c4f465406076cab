"""What people and log files get to see, and how it is written without waiting for a reader.

1. `writer` is a thread with a bounded queue: who does not read loses lines, and keeps nobody waiting.
2. `streams` puts standard output and standard error behind writers.
3. `log` writes the log file, which rotates; `audit` has the events of the audit: who did what to whom, and when.
4. `terminal` is what the launcher shows: a console that redacts, and the progress of a run.
5. `publishing` decides where a run's report goes and what is shown of it.
6. `floods` bounds what clients can make a server's log say.

Every text that leaves here is redacted.
"""
