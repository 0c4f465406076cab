"""The output for people and log files, written without waiting for a reader.

1. `writer` is a thread with a bounded queue: a slow reader loses lines, but does not block the process.
2. `streams` puts standard output and standard error behind writers.
3. `log` writes the log file, which rotates; `audit` has the events of the audit: who did what to whom, and when.
4. `terminal` is the launcher's display: a console that redacts, and the progress of a run.
5. `publishing` decides where a run's report goes and which parts of it are shown.
6. `floods` limits the log lines that clients can cause.

Every text that leaves here is redacted.
"""
