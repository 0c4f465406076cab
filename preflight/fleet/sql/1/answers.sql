-- Whether a provider's answer to a question with a key was the good one, for re-runs of other instances. Neither the key
-- nor the address of the provider is here: `question` and `seal` are HMACs by the key (preflight/fleet/answers.py).

CREATE TABLE preflight.answers (
    question bytea PRIMARY KEY,
    claimed_at timestamptz NOT NULL,  -- when somebody went to ask
    asked_at timestamptz,  -- when the instance that got the answer asked
    asked_by text,
    is_good boolean,
    seconds double precision,  -- that the provider took
    written_at bigint,  -- on the clock of that instance, in seconds since the epoch
    seal bytea
);

CREATE INDEX answers_by_time ON preflight.answers (claimed_at);
