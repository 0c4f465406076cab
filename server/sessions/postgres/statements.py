"""The statements for PostgreSQL: each is one round trip, and a transaction of its own if it is sent alone.

Times are the database's. A row of `chat_turns` is a lease: its turn is the owner's until `expires`, and taking it over
raises its `epoch`. What an owner writes about a turn names the epoch that it knows: a former owner writes nothing.
Statements that lock both lock a session before its turns.
"""

from __future__ import annotations

COLUMNS = "seq, turn, role, content, extract(epoch FROM at)::float8 AS at, client, code, retry, retry_after"

ACCEPT = """
WITH mine AS (
    -- The same message again, because the connection broke before its sender knew that it was stored.
    SELECT transcript.at, seq
    FROM preflight.chat_turns AS turns JOIN preflight.chat_transcript AS transcript USING (seq)
    WHERE turns.turn = %(turn)s
), before AS (
    SELECT turn, at, seq FROM preflight.chat_transcript
    WHERE session = %(session)s AND client = %(client)s AND role = 'user' AND turn <> %(turn)s
), session AS (
    UPDATE preflight.chat_sessions
    SET updated = now(), messages = messages + 1, bytes = bytes + %(bytes)s
    WHERE id = %(session)s AND bytes + %(bytes)s <= %(size)s
    AND NOT EXISTS (SELECT FROM mine) AND NOT EXISTS (SELECT FROM before)
    RETURNING updated
), line AS (
    INSERT INTO preflight.chat_transcript (session, turn, role, content, at, client)
    SELECT %(session)s, %(turn)s, 'user', %(content)s, updated, %(client)s FROM session
    RETURNING seq, at
), lease AS (
    INSERT INTO preflight.chat_turns (turn, session, seq, owner, epoch, expires, attempts)
    SELECT %(turn)s, %(session)s, seq, %(owner)s, 1, now() + %(lease)s, 0 FROM line
)
SELECT
    extract(epoch FROM coalesce((SELECT at FROM line), (SELECT at FROM mine)))::float8 AS at,
    coalesce((SELECT seq FROM line), (SELECT seq FROM mine)) AS seq,
    EXISTS (SELECT FROM preflight.chat_turns WHERE session = %(session)s AND owner <> %(owner)s) AS others,
    (SELECT turn FROM before) AS other,
    (SELECT extract(epoch FROM at)::float8 FROM before) AS other_at,
    (SELECT seq FROM before) AS other_seq,
    (SELECT bytes FROM preflight.chat_sessions WHERE id = %(session)s) AS bytes
"""

CREATE = """
INSERT INTO preflight.chat_sessions (id, created, updated, messages, bytes, workspace)
VALUES (%(session)s, now(), now(), 0, 0, %(workspace)s) ON CONFLICT (id) DO NOTHING
"""

BEGIN = """
UPDATE preflight.chat_turns AS mine SET attempts = %(attempts)s, expires = now() + %(lease)s
WHERE turn = %(turn)s AND epoch = %(epoch)s
AND NOT EXISTS (
    SELECT FROM preflight.chat_turns AS earlier
    WHERE earlier.session = mine.session AND earlier.seq < mine.seq
    AND earlier.owner <> mine.owner AND earlier.expires > now()
)
"""

FINISH = f"""
WITH session AS (
    SELECT id FROM preflight.chat_sessions WHERE id = %(session)s FOR NO KEY UPDATE
), ended AS (
    DELETE FROM preflight.chat_turns AS turns USING session
    WHERE turns.session = session.id AND turn = %(turn)s AND epoch = %(epoch)s
    RETURNING turn
), line AS (
    INSERT INTO preflight.chat_transcript (session, turn, role, content, at, code, retry, retry_after)
    SELECT %(session)s, turn, %(role)s, %(content)s, clock_timestamp(), %(code)s, %(retry)s, %(retry_after)s FROM ended
    RETURNING *
), counted AS (
    UPDATE preflight.chat_sessions AS sessions
    SET updated = line.at, messages = messages + 1, bytes = bytes + %(bytes)s
    FROM line WHERE id = %(session)s
)
SELECT {COLUMNS} FROM line
"""  # noqa: S608  # names from here

RENEW = """
UPDATE preflight.chat_turns AS turns SET expires = now() + %(lease)s
FROM unnest(%(turns)s::text[], %(epochs)s::bigint[]) AS held (turn, epoch)
WHERE turns.turn = held.turn AND turns.epoch = held.epoch
"""

RELEASE = """
UPDATE preflight.chat_turns AS turns SET expires = now()
FROM unnest(%(turns)s::text[], %(epochs)s::bigint[]) AS held (turn, epoch)
WHERE turns.turn = held.turn AND turns.epoch = held.epoch
"""

# The second way that a claim succeeds: it had done so before, and the connection broke before that was known.
CLAIM = """
UPDATE preflight.chat_turns SET owner = %(owner)s, epoch = %(epoch)s + 1, expires = now() + %(lease)s
WHERE turn = %(turn)s AND (
    (epoch = %(epoch)s AND (%(force)s OR owner = %(owner)s OR expires <= now()))
    OR (epoch = %(epoch)s + 1 AND owner = %(owner)s)
)
RETURNING attempts, epoch
"""

OPEN = """
SELECT turns.turn, seq, content, attempts, client, owner, epoch, owner <> %(owner)s AND expires > now() AS held
FROM preflight.chat_turns AS turns JOIN preflight.chat_transcript AS transcript USING (seq)
"""
OPEN_TURNS = f"{OPEN} WHERE turns.session = %(session)s ORDER BY seq"
OPEN_TURN = f"{OPEN} WHERE turns.turn = %(turn)s"

NEWS = """
SELECT session, turn, seq FROM unnest(%(sessions)s::text[], %(numbers)s::bigint[]) AS known (id, number)
JOIN preflight.chat_transcript ON session = id AND seq > number WHERE role = 'user' ORDER BY seq
"""

HELD = "SELECT FROM preflight.chat_turns WHERE turn = %(turn)s AND epoch = %(epoch)s FOR NO KEY UPDATE"

ANSWER = f"""
SELECT {COLUMNS} FROM preflight.chat_transcript
WHERE session = %(session)s AND turn = %(turn)s AND role <> 'user' ORDER BY seq DESC LIMIT 1
"""  # noqa: S608

# One line more than are wanted, so that it is known whether there are more.
HISTORY = f"""
SELECT {COLUMNS} FROM preflight.chat_transcript
WHERE session = %(session)s AND seq < %(before)s AND seq >= least(%(oldest)s, coalesce((
    SELECT seq FROM preflight.chat_transcript WHERE session = %(session)s AND seq < %(before)s
    ORDER BY seq DESC OFFSET %(limit)s LIMIT 1
), 0))
ORDER BY seq DESC
"""  # noqa: S608
OLDEST = "SELECT min(seq) AS seq FROM preflight.chat_turns WHERE session = %(session)s"

SESSION = """
SELECT
    id, extract(epoch FROM created)::float8 AS created, extract(epoch FROM updated)::float8 AS updated,
    messages, bytes, workspace, (SELECT count(*) FROM preflight.chat_turns WHERE session = id) AS unanswered
FROM preflight.chat_sessions AS sessions
"""
PAGE = f"{SESSION} ORDER BY sessions.updated DESC, id LIMIT %(limit)s OFFSET %(offset)s"
ONE_SESSION = f"{SESSION} WHERE id = %(session)s"
COUNT = "SELECT count(*) AS count FROM preflight.chat_sessions"
EXISTS = "SELECT EXISTS (SELECT FROM preflight.chat_sessions WHERE id = %(session)s) AS there"
TRANSCRIPT = f"SELECT {COLUMNS} FROM preflight.chat_transcript WHERE session = %(session)s ORDER BY seq"  # noqa: S608

# What a session consists of beside LangGraph's tables goes with its row (ON DELETE CASCADE).
DELETE = "DELETE FROM preflight.chat_sessions WHERE id = ANY(%(sessions)s) RETURNING id"
SOME = "SELECT id FROM preflight.chat_sessions LIMIT %(limit)s"

FORGET = tuple(
    f"DELETE FROM preflight.{table} WHERE thread_id = ANY(%(sessions)s)"  # noqa: S608
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
)

# A session in which a turn is worked on makes no room for others, on whichever instance that is.
SPARED = """
id <> ALL(%(keep)s)
AND NOT EXISTS (SELECT FROM preflight.chat_turns WHERE session = id AND expires > now())
"""
TOO_OLD = f"""
SELECT id FROM preflight.chat_sessions WHERE updated < now() - %(age)s AND {SPARED}
ORDER BY updated LIMIT %(limit)s
"""  # noqa: S608
TOO_MANY = f"""
SELECT id FROM (SELECT id FROM preflight.chat_sessions ORDER BY updated DESC OFFSET %(most)s) AS oldest
WHERE {SPARED} LIMIT %(limit)s
"""  # noqa: S608

# The memory is what the newest checkpoint holds; its values that are no numbers or texts are blobs, by version.
PRUNE = (
    """
    DELETE FROM preflight.checkpoints
    WHERE thread_id = %(thread)s AND checkpoint_ns = %(namespace)s AND checkpoint_id <> %(checkpoint)s
    """,
    """
    DELETE FROM preflight.checkpoint_blobs
    WHERE thread_id = %(thread)s AND checkpoint_ns = %(namespace)s
    AND version IS DISTINCT FROM %(versions)s::jsonb ->> channel
    """,
)
