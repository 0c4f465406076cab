"""``--migrate``: bring the tables in the fleet's database to this release."""

from __future__ import annotations

import contextlib
import sys

from preflight import commands
from preflight.output import plainlines
from preflight.settings import places
from preflight.settings.model import Settings

PATIENCE = 600.0  # seconds that it waits for another migration, or for a table that is in use


def run(settings: Settings) -> int:
    """Apply the missing steps one by one; returns 0 if none is missing afterwards, else 1, and 2 without a database."""
    if not settings.database_url:
        place = places.of(settings, "PREFLIGHT_DATABASE_URL")
        plainlines.error(f"PREFLIGHT_DATABASE_URL is not set: set it {place.target}")
        return 2
    from preflight.fleet import database, schema

    said: set[str] = set()

    def waits(why: str) -> None:
        if why not in said:
            plainlines.say(f"Waiting for {why}, for {PATIENCE:g} s at most.")
        said.add(why)

    try:
        if str(settings.folder) not in sys.path:
            sys.path.insert(0, str(settings.folder))  # the application's own tables are declared there
        every = [schema.fleet(), *schema.registered(settings.database_tables)]
        with contextlib.closing(database.connect(settings.database_url, settings.environment)) as connection:
            for tables, number in schema.migrate(connection, every, patience=PATIENCE, waiting=waits):
                plainlines.say(f"{tables.subject}: step {number} of {tables.version} is done.")
            state = schema.look(connection, schema.STEP)
            for tables in every:
                newer = " (a newer release has migrated it)" if state.version(tables) > tables.version else ""
                plainlines.say(f"{tables.subject}: version {state.version(tables)}{newer}")
    except (database.UnusableDatabase, database.Unavailable) as error:
        print(f"{commands.name()}: error: {error}", file=sys.stderr)
        if fix := getattr(error, "fix", ""):
            print(f"Fix: {fix}", file=sys.stderr)
        return 1
    return 0
