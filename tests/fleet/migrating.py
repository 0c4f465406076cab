"""A program that migrates, for tests that kill it or run two: python -m tests.fleet.migrating URL SUBJECT STEP..."""

from __future__ import annotations

import contextlib
import os
import sys

from preflight.fleet import database, schema

if __name__ == "__main__":
    url, subject, *steps = sys.argv[1:]
    with contextlib.closing(database.connect(url, os.environ)) as connection:
        for _tables, number in schema.migrate(connection, [schema.Tables(subject, tuple(steps))], patience=60.0):
            print(number, flush=True)
