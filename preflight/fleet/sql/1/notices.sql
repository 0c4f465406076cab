-- What people are told once for the whole fleet. A registrar gathers the news that nobody has told yet in a notice, and
-- has a lease on it while it is sent. A registrar that finds a lease which has run out sends the notice again, with the
-- same key.

CREATE TABLE preflight.notices (
    key text PRIMARY KEY,
    project text NOT NULL,
    made_at timestamptz NOT NULL DEFAULT now(),
    title text NOT NULL,
    body text NOT NULL,
    level text NOT NULL,  -- success, warning or failure
    holder text NOT NULL,  -- the instance that sends it
    held_until timestamptz NOT NULL,
    tries integer NOT NULL DEFAULT 1,
    delivered_at timestamptz,
    given_up_at timestamptz
);

CREATE INDEX notices_waiting ON preflight.notices (project, held_until)
    WHERE delivered_at IS NULL AND given_up_at IS NULL;

CREATE TABLE preflight.news (
    instance text NOT NULL,
    run_id text NOT NULL,
    title text NOT NULL,
    project text NOT NULL,
    name text NOT NULL,  -- of the instance, for people
    before text NOT NULL,
    after text NOT NULL,
    message text NOT NULL,
    fix text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    notice text REFERENCES preflight.notices ON DELETE CASCADE,
    PRIMARY KEY (instance, run_id, title)
);

CREATE INDEX news_untold ON preflight.news (project, at) WHERE notice IS NULL;
CREATE INDEX news_by_time ON preflight.news (at);
