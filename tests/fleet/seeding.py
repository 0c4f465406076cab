"""Rows as the registrars of many instances leave them, and as a hostile tenant of the database would."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing

import psycopg

from preflight.fleet import database, schema
from preflight.report.model import Check, Report

KEY = "OpenAI API Key"
HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m"

_INSTANCES = """
INSERT INTO preflight.instances (id, project, application, host, address, release, first_seen_at, seen_at, beats_every,
                                 verdict, verdict_since, run_id, checks, ended_at, ending)
SELECT 'i' || lpad(n::text, 5, '0'), 'shop', 'shop.main:app', 'web-' || n, '10.0.0.' || n %% 250 || ':8002',
       CASE WHEN n %% 8 = 0 THEN '0.1.0' ELSE '0.2.0' END, now() - interval '3 days',
       now() - CASE WHEN n %% 20 = 7 THEN interval '5 hours' ELSE n %% 30 * interval '1 second' END, 3600,
       CASE WHEN n %% 20 = 3 THEN 'blocked' WHEN n %% 100 = 51 THEN 'broken' ELSE 'good' END,
       now() - n %% 50 * interval '1 minute', md5(n::text), 24,
       CASE WHEN n %% 50 = 9 THEN now() - interval '2 hours' END, CASE WHEN n %% 50 = 9 THEN 'exit code 0' END
FROM generate_series(1, %s) AS n
"""
_FAILING = f"""
INSERT INTO preflight.failing (instance, title, standing, outcome, message, fix, since)
SELECT id, '{KEY}', 'blocks', 'failed', 'OPENAI_API_KEY was rejected by api.openai.com (HTTP 401)',
       'make a new key and set OPENAI_API_KEY', now() - interval '5 minutes'
FROM preflight.instances WHERE verdict = 'blocked'
UNION ALL
SELECT id, 'Disk Space', 'warns', 'failed', '0.4 GiB free at /var/lib/shop, needs 1 GiB', 'make room on that disk',
       now() - interval '2 hours'
FROM preflight.instances WHERE ascii(right(id, 1)) % 5 = 0
"""
_CHANGES = f"""
INSERT INTO preflight.changes SELECT (jsonb_populate_record(NULL::preflight.changes, jsonb_build_object(
    'instance', id, 'project', project, 'name', host, 'run_id', run_id, 'title', title, 'before', before,
    'after', after, 'message', message, 'at', at))).*
FROM (
    SELECT i.*, '{KEY}' AS title, 'ok' AS before, 'blocks' AS after,
           'OPENAI_API_KEY was rejected by api.openai.com (HTTP 401)' AS message,
           now() - interval '5 minutes' + random() * interval '20 seconds' AS at
    FROM preflight.instances AS i WHERE verdict = 'blocked'
    UNION ALL
    SELECT i.*, 'Perplexity API', 'warns', 'ok', '', now() - interval '7 hours'
    FROM preflight.instances AS i WHERE ascii(right(id, 1)) % 3 = 0
    UNION ALL
    SELECT i.*, '', 'good', 'blocked', '', now() - interval '30 hours'
    FROM preflight.instances AS i WHERE verdict = 'blocked'
) AS changed
"""
_REPORTS = """
INSERT INTO preflight.reports (instance, run_id, document)
SELECT id, run_id, %s FROM preflight.instances LIMIT %s
"""


def made(url: str) -> str:
    """The same URL, once our tables are there."""
    with closing(database.connect(url, {})) as connection:
        schema.create(connection, [schema.fleet()])
    return url


def fill(url: str, count: int, document: object = None, *, reports: int = 1000) -> None:
    """Put ``count`` instances there, ``reports`` of them with this report."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_INSTANCES, (count,))
        for statement in (_FAILING, _CHANGES):
            connection.execute(statement.encode())
        if document is not None:
            connection.execute(_REPORTS, (json.dumps(document), reports))
        connection.execute("ANALYZE")


def report(make_report: Callable[..., Report], make_check: Callable[..., Check]) -> Report:
    """A report of a re-run in which a key was rejected."""
    rejected = make_check(KEY, "failed", message="OPENAI_API_KEY was rejected", fix="make a new key", scope="fleet")
    disk = make_check("Disk Space", "failed", severity="warning", message="0.4 GiB free", fix="make room on that disk")
    return make_report(rejected, disk, make_check("Python Version", message="3.13.9"), origin="rerun")


POISON = f"""
INSERT INTO preflight.instances (id, project, application, host, address, release, first_seen_at, seen_at, beats_every,
                                 verdict, verdict_since, run_id, checks)
VALUES ('evil', repeat('p', 100000), '{HOSTILE}', '{HOSTILE}', repeat('a', 100000), '{HOSTILE}', '-infinity',
        'infinity', 'NaN', 'excellent', 'infinity', '', 2147483647),
       ('ancient', '', '', '', '', '', '4713-01-01 BC', '294276-01-01', '1e308', 'good', '-infinity', '', -1);
INSERT INTO preflight.failing (instance, title, standing, outcome, message, fix, since)
SELECT 'evil', '{HOSTILE}' || n, 'explodes', '{HOSTILE}', repeat('m', 100000), repeat('f', 100000), 'infinity'
FROM generate_series(1, 200) AS n;
INSERT INTO preflight.changes SELECT (jsonb_populate_record(NULL::preflight.changes, jsonb_build_object(
    'instance', 'evil', 'project', '', 'name', '', 'run_id', n::text, 'title', repeat('t', 100000),
    'before', repeat('b', 100000), 'after', '{HOSTILE}', 'message', repeat('m', 100000),
    'at', CASE WHEN n = 1 THEN 'infinity' ELSE now() END))).*
FROM generate_series(1, 200) AS n;
INSERT INTO preflight.reports (instance, run_id, at, document)
VALUES ('evil', '1', now(), to_jsonb(repeat('x', 9000000))),
       ('evil', '2', 'infinity', '{{"preflight": {{"schema": 1}}}}'),
       ('ancient', '1', now(), '{{"preflight": {{"schema": 1, "checks": "none"}}}}')
"""


def poison(url: str) -> None:
    """What somebody with all rights on the tables may put there, to break or to deceive whoever reads them."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in POISON.replace("\x1b", "").split(";\n"):
            connection.execute(statement.encode())
