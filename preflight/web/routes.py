"""The table of routes: the only place where a route is declared.

Routing, the guard's decision and the OpenAPI document come from it. An application's own routes stand in it beside
these.
"""

from __future__ import annotations

from preflight.web import pages
from preflight.web.endpoints import diagnostics, fleet, followers, health, history, login, metrics, openapi, reruns
from preflight.web.fleet import is_offered
from preflight.web.routing import Audience, Operation, Route, Socket, Table
from preflight.web.schemas import (
    A_PAGE,
    ANYTHING,
    CSS,
    HTML,
    PAGE,
    SAME,
    SEE_OTHER,
    STATE,
    TEXT,
    Schema,
    answer,
    array,
    choice,
    error,
    in_path,
    ref,
)

HEALTH: Schema = {
    "content": {
        "application/json": {"schema": ref("Health")},
        "application/health+json": {"schema": ref("HealthDraft")},
    }
}
HISTORY = {"503": error("the history cannot be read now")}
RUN_ID = in_path("run_id")
PAGE_OF_RUNS = [
    *A_PAGE,
    {"name": "address", "in": "query", "description": "host:port; without it, of all addresses", "schema": TEXT},
]


NO_FLEET = {"404": error("there is no database of a fleet, or no such instance")}
AWAY = {"503": error("the fleet's database does not answer, or cannot be used")}


CONDITION: Schema = TEXT | {"maxLength": fleet.LONGEST, "pattern": "^[^\\x00]*$"}


def condition(name: str, about: str, schema: Schema = CONDITION) -> Schema:
    """One of the conditions of a list of instances."""
    return {"name": name, "in": "query", "description": about, "schema": schema}


def table(own: Table = ()) -> Table:
    """The routes of one application, ``own`` among them; some keep what they have answered, so each has its own."""
    return [
        Route(
            "/health",
            health.Health(),
            {
                "GET": Operation(
                    "The health of this instance, with the titles of the checks that fail or warn.",
                    {
                        "200": HEALTH | {"description": "healthy, warnings included"},
                        "503": HEALTH | {"description": "unhealthy, or the server drains"},
                    },
                )
            },
            Audience.ANYBODY,
            direct=True,
        ),
        Route(
            "/health/live",
            health.Live(),
            {"GET": Operation("The process answers.", {"200": answer("the process answers", ref("Live"))})},
            Audience.ANYBODY,
            direct=True,
        ),
        Route(
            "/health/ready",
            health.Ready(),
            {
                "GET": Operation(
                    "The verdict is good, and the server does not drain.",
                    {
                        "200": answer("the server should get requests", ref("Ready")),
                        "503": answer("the server should get no requests", ref("Ready")),
                    },
                )
            },
            Audience.ANYBODY,
            direct=True,
        ),
        Route("/", pages.root, {"GET": Operation("The page.", {"200": PAGE, "304": SAME})}),
        Route(
            "/static/{name}",
            pages.static,
            {
                "GET": Operation(
                    "A file of the page.",
                    {
                        "200": {
                            "description": "the file",
                            "content": {kind.partition(";")[0]: {"schema": TEXT} for kind in pages.TYPES.values()},
                        },
                        "304": SAME,
                        "404": error("no such file"),
                    },
                    [in_path("name")],
                )
            },
        ),
        Route(
            "/diagnostics",
            diagnostics.Diagnostics(),
            {
                "GET": Operation(
                    "The most recent report for this address, from any process.",
                    {
                        "200": {
                            "description": "the report, in the format that ?format= or Accept asks for",
                            "content": {
                                "application/json": {"schema": ref("Diagnostics")},
                                "application/health+json": {"schema": ANYTHING},
                                "text/plain": {"schema": TEXT},
                                HTML: {"schema": TEXT},
                            },
                        },
                        "304": SAME,
                        "400": error("no such format"),
                    },
                    [
                        {
                            "name": "format",
                            "in": "query",
                            "description": "overrides Accept",
                            "schema": choice(*diagnostics.MEDIA_TYPES),
                        }
                    ],
                )
            },
            direct=True,
        ),
        Route(
            "/diagnostics/run",
            reruns.run,
            {
                "POST": Operation(
                    "Run the suite again beside the live server, or join the running re-run.",
                    {
                        "202": answer("a re-run is running", ref("Rerun"))
                        | {"headers": {"Location": {"schema": TEXT, "required": True}}},
                        "429": answer(
                            "the last re-run has only just ended, or there were too many wrong tokens", ref("TooSoon")
                        ),
                        "503": error("the server is stopping"),
                    },
                )
            },
        ),
        Route(
            "/diagnostics/run/{run_id}",
            reruns.state,
            {
                "GET": Operation(
                    "How far a re-run is, or how it ended.",
                    {"200": answer("the run", ref("Rerun")), "404": error("there is no such re-run")},
                    [RUN_ID],
                )
            },
        ),
        Route(
            "/diagnostics/history",
            history.runs,
            {
                "GET": Operation(
                    "Past runs with the changes in each, newest first.",
                    HISTORY
                    | {"200": answer("a page of runs", array(ref("Run"))), "400": error("a number out of its range")},
                    PAGE_OF_RUNS,
                )
            },
        ),
        Route(
            "/diagnostics/history/{run_id}",
            history.run,
            {
                "GET": Operation(
                    "One past run.",
                    HISTORY | {"200": answer("the run", ref("Diagnostics")), "404": error("there is no such run")},
                    [RUN_ID],
                )
            },
        ),
        Route(
            "/diagnostics/checks/{title:path}",
            history.check,
            {
                "GET": Operation(
                    "The past outcomes of one check, newest first.",
                    HISTORY
                    | {
                        "200": answer("its past", ref("Past")),
                        "400": error("a number out of its range"),
                        "404": error("no kept run has this check"),
                    },
                    [in_path("title"), *PAGE_OF_RUNS],
                )
            },
        ),
        Route(
            "/metrics",
            metrics.metrics,
            {"GET": Operation("For Prometheus.", {"200": answer("the metrics", TEXT, "text/plain")})},
        ),
        Route(
            "/fleet",
            fleet.fleet,
            {
                "GET": Operation(
                    "All instances that share a database, at a glance.",
                    NO_FLEET
                    | {
                        "200": {
                            "description": "the fleet now; in a browser, the page",
                            "content": {"application/json": {"schema": ref("Fleet")}, HTML: {"schema": TEXT}},
                        },
                        "304": SAME,
                        "400": error("no such format"),
                        "503": answer("the fleet as it was last known: its database is unavailable", ref("Fleet")),
                    },
                    [condition("format", "overrides Accept", choice(*fleet.FORMATS))],
                )
            },
            is_offered=is_offered,
        ),
        Route(
            "/fleet/instances",
            fleet.instances,
            {
                "GET": Operation(
                    "The instances, the worst first.",
                    NO_FLEET
                    | AWAY
                    | {
                        "200": answer("a page of instances", ref("FleetInstances")),
                        "400": error("a number out of its range, or a filter that is not valid"),
                    },
                    [
                        *A_PAGE,
                        condition("state", "its state", STATE),
                        condition("release", "its version"),
                        condition("project", "its project"),
                        condition("check", "the title of a check that does not hold there"),
                        condition("named", "a part of its id, host or address"),
                    ],
                )
            },
            is_offered=is_offered,
        ),
        Route(
            "/fleet/instances/{instance_id:path}",
            fleet.instance,
            {
                "GET": Operation(
                    "One instance, with its newest report.",
                    NO_FLEET | AWAY | {"200": answer("the instance", ref("FleetInstance"))},
                    [in_path("instance_id")],
                )
            },
            is_offered=is_offered,
        ),
        *own,
        Socket(
            "/ws/diagnostics",
            followers.Follow(),
            "The verdict, each check of a re-run, and each new report, at once.",
        ),
        Route(
            "/login",
            login.login,
            {
                "GET": Operation(
                    "The form that takes the token.",
                    {
                        "200": PAGE,
                        "303": SEE_OTHER | {"description": "logged in already"},
                        "404": error("no token is set, so there is no login"),
                    },
                    [
                        {
                            "name": "next",
                            "in": "query",
                            "description": "the path to go to after the login",
                            "schema": TEXT,
                        }
                    ],
                ),
                "POST": Operation(
                    "Log in: sets a cookie.",
                    {
                        "303": SEE_OTHER | {"description": "logged in"},
                        "401": answer("the token is wrong", TEXT, HTML),
                        "404": error("no token is set, so there is no login"),
                        "413": error("the form is larger than a login needs"),
                        "429": answer("too many wrong tokens", TEXT, HTML),
                    },
                    body={
                        "required": True,
                        "content": {"application/x-www-form-urlencoded": {"schema": ref("Login")}},
                    },
                ),
            },
            Audience.VISITORS,
        ),
        Route(
            "/login.css",
            login.style,
            {"GET": Operation("The form's style.", {"200": answer("the style", TEXT, CSS)})},
            Audience.VISITORS,
        ),
        Route("/logout", login.logout, {"POST": Operation("End the login.", {"303": SEE_OTHER})}),
        Route(
            "/openapi.json",
            openapi.openapi,
            {"GET": Operation("This document.", {"200": answer("the document", ANYTHING)})},
        ),
        Route("/docs", openapi.docs, {"GET": Operation("The routes, for people.", {"200": PAGE})}),
    ]
