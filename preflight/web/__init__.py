"""What a served application can know of its instance, and show of it.

`instance` is the application's only way to the launcher: it asks for re-runs, and records what it does in the audit.
"""
