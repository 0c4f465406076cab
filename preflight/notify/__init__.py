"""Telling people about checks that change, and about crashes.

1. `notices` makes short messages from a run's changes and from what happens to the server.
2. `notifier` is the launcher's side: a queue for each service, and nobody waits for one.
3. `__main__` is the sender (PROCESS): Apprise is imported there and nowhere else.

Every service's URL is a secret.
"""
