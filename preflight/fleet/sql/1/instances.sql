-- Who is there, how each of them stands, and what has changed. Every time is the database's own clock.
-- Rows are written by the registrar of their instance alone; what a reader may believe of them: docs/threats.md.

CREATE TABLE preflight.instances (
    id text PRIMARY KEY,
    project text NOT NULL,
    application text NOT NULL,
    host text NOT NULL,
    address text NOT NULL,
    release text NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    seen_at timestamptz NOT NULL DEFAULT now(),
    beats_every double precision NOT NULL,  -- seconds: after three of them without a sign, it counts as silent
    verdict text NOT NULL,  -- good, blocked or broken
    verdict_since timestamptz NOT NULL DEFAULT now(),
    run_id text NOT NULL,
    checks integer NOT NULL,
    ended_at timestamptz,  -- when it said that it ends
    ending text
) WITH (fillfactor = 70);  -- room for a heartbeat to change its row where it is

CREATE INDEX instances_by_project ON preflight.instances (project, verdict) WHERE ended_at IS NULL;

-- The checks that do not hold at present; those that hold have no row.
CREATE TABLE preflight.failing (
    instance text NOT NULL REFERENCES preflight.instances ON DELETE CASCADE,
    title text NOT NULL,
    standing text NOT NULL,  -- blocks or warns
    outcome text NOT NULL,
    message text NOT NULL,
    fix text NOT NULL,
    since timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (instance, title)
);

CREATE INDEX failing_by_title ON preflight.failing (title, standing);

-- What has changed: of a check, and with an empty title of the verdict. Kept when its instance is forgotten.
CREATE TABLE preflight.changes (
    instance text NOT NULL,
    run_id text NOT NULL,
    title text NOT NULL,
    project text NOT NULL,
    name text NOT NULL,  -- of the instance, for people
    before text NOT NULL,  -- ok, warns or blocks; good, blocked or broken
    after text NOT NULL,
    message text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (instance, run_id, title)
);

CREATE INDEX changes_by_time ON preflight.changes (at);

-- Reports, redacted, whenever a check has another outcome than in the one before.
CREATE TABLE preflight.reports (
    instance text NOT NULL REFERENCES preflight.instances ON DELETE CASCADE,
    run_id text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    document jsonb NOT NULL,
    PRIMARY KEY (instance, run_id)
);

CREATE INDEX reports_by_time ON preflight.reports (at);
