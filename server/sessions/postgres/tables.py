"""The chat's tables in the schema `preflight`, as steps (see `preflight.fleet.schema`).

pyproject.toml names :data:`TABLES`. LangGraph's own tables are among them: its `setup` cannot be run by two instances
at once, nor in a transaction.
"""

from __future__ import annotations

from preflight.fleet.schema import Tables

SESSIONS = """
CREATE TABLE preflight.chat_sessions (
    id text PRIMARY KEY,
    created timestamptz NOT NULL,
    updated timestamptz NOT NULL,
    messages bigint NOT NULL,
    bytes bigint NOT NULL,
    workspace text
);
CREATE INDEX chat_sessions_updated ON preflight.chat_sessions (updated);
CREATE TABLE preflight.chat_transcript (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    session text NOT NULL REFERENCES preflight.chat_sessions ON DELETE CASCADE,
    turn text NOT NULL,
    role text NOT NULL,
    content text NOT NULL,
    at timestamptz NOT NULL,
    client text,
    code text,
    retry boolean,
    retry_after double precision
);
CREATE INDEX chat_transcript_session ON preflight.chat_transcript (session, seq);
CREATE UNIQUE INDEX chat_transcript_client ON preflight.chat_transcript (session, client)
    WHERE role = 'user' AND client IS NOT NULL;
-- Turns that were accepted and have no answer yet, and whose they are; attempts are those that began.
CREATE TABLE preflight.chat_turns (
    turn text PRIMARY KEY,
    session text NOT NULL REFERENCES preflight.chat_sessions ON DELETE CASCADE,
    seq bigint NOT NULL,
    owner text NOT NULL,
    epoch bigint NOT NULL,
    expires timestamptz NOT NULL,
    attempts integer NOT NULL
);
CREATE INDEX chat_turns_session ON preflight.chat_turns (session, seq);
"""

# langgraph-checkpoint-postgres 3.2, whose list of migrations has these ten; a test compares.
MEMORY_VERSION = 9
MEMORY = f"""
CREATE TABLE preflight.checkpoint_migrations (v integer PRIMARY KEY);
INSERT INTO preflight.checkpoint_migrations SELECT generate_series(0, {MEMORY_VERSION});
CREATE TABLE preflight.checkpoints (
    thread_id text NOT NULL,
    checkpoint_ns text NOT NULL DEFAULT '',
    checkpoint_id text NOT NULL,
    parent_checkpoint_id text,
    type text,
    checkpoint jsonb NOT NULL,
    metadata jsonb NOT NULL DEFAULT '{{}}',
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id)
);
CREATE INDEX checkpoints_thread_id_idx ON preflight.checkpoints (thread_id);
CREATE TABLE preflight.checkpoint_blobs (
    thread_id text NOT NULL,
    checkpoint_ns text NOT NULL DEFAULT '',
    channel text NOT NULL,
    version text NOT NULL,
    type text NOT NULL,
    blob bytea,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, version)
);
CREATE INDEX checkpoint_blobs_thread_id_idx ON preflight.checkpoint_blobs (thread_id);
CREATE TABLE preflight.checkpoint_writes (
    thread_id text NOT NULL,
    checkpoint_ns text NOT NULL DEFAULT '',
    checkpoint_id text NOT NULL,
    task_id text NOT NULL,
    idx integer NOT NULL,
    channel text NOT NULL,
    type text,
    blob bytea NOT NULL,
    task_path text NOT NULL DEFAULT '',
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
CREATE INDEX checkpoint_writes_thread_id_idx ON preflight.checkpoint_writes (thread_id);
"""


TABLES = Tables("chat", (SESSIONS + MEMORY,))
