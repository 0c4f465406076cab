"""Messages to people about checks that change, and about crashes.

1. `notices` makes short messages from a run's changes and from events of the server.
2. `notifier` is the launcher's side: it has a queue for each service, and nothing waits for a queue.
3. `sender` runs in a process of its own (PROCESS, begun by `__main__`): only this module imports Apprise.

Every service's URL is a secret.
"""
