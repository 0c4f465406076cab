"""Every query of the dashboard and every alert, asked of a Prometheus that scrapes a server of ours."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from websockets.sync.client import connect

from tests.deploy import expressions
from tests.e2e.place import Place, Started, make_place
from tests.portnumbers import unused_port
from tests.waiting import until

pytestmark = pytest.mark.slow

RULES = Path(expressions.RULES)


class Prometheus:
    """One that scrapes an address every second, and knows the project's rules."""

    def __init__(self, place: Place, target: str) -> None:
        program = shutil.which("prometheus")
        if program is None and not os.environ.get("CI"):
            pytest.skip("prometheus is not installed")
        assert program is not None
        self.url = f"http://127.0.0.1:{unused_port()}"
        folder = place.folder / "prometheus"
        folder.mkdir()
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "preflight", "static_configs": [{"targets": [target]}]}],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # YAML has JSON in it
        listen = f"--web.listen-address={self.url.removeprefix('http://')}"
        self.process: Started = place.spawn(
            program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}", listen
        )

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer; None as long as it starts."""
        try:
            came = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30)
        except requests.ConnectionError:
            assert self.process.process.poll() is None, self.process.output
            return None
        if came.status_code == 503:
            return None
        answer = came.json()
        assert answer["status"] == "success", f"{parameters}: {answer}"
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """The series that an expression has now."""
        data = self.ask("query", query=expression)
        return [] if data is None else list(data["result"])


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[tuple[Place, Prometheus]]:
    """A server without keys, on a machine that has too little memory for it: something warns."""
    place = make_place(tmp_path / "place")
    place.environ["PREFLIGHT_MEMORY"] = "100 TiB"
    place.start("--demo").until_ready()
    yield place, Prometheus(place, f"127.0.0.1:{place.port}")
    place.close()


def chat(port: int) -> None:
    """One turn, to its end; each connection makes sessions of its own."""
    with connect(f"ws://127.0.0.1:{port}/ws/chat", open_timeout=60) as socket:
        for message in ({"type": "init"}, {"type": "chat", "content": "what failed?"}):
            socket.send(json.dumps(message))
        kinds = (json.loads(text)["type"] for text in socket)
        assert "result" in itertools.takewhile(lambda kind: kind != "error", kinds)


def filled_in(expression: str) -> str:
    """As Grafana asks: the variables that somebody has chosen, and a range that fits the scrapes."""
    values = {"job": "preflight", "instance": ".*", "__rate_interval": "4s"}
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], expression)


def every_query_has_data(place: Place, prometheus: Prometheus) -> None:
    """None is refused, and each panel and variable shows something of a server that has served and has been asked."""
    requests.post(f"{place.url}/diagnostics/run", timeout=60).raise_for_status()
    chat(place.port)
    until(lambda: bool(prometheus.query("preflight_reruns_total > 0")), "the re-run was scraped")
    until(lambda: bool(prometheus.query("preflight_chat_turn_duration_seconds_count > 0")), "the turn was scraped")
    for title, expression in expressions.queries():
        asked = filled_in(expression)
        until(lambda asked=asked: bool(prometheus.query(asked)), f"{title} has data: {asked}")  # type: ignore[misc]
    # A turn has left its mark in the percentiles, and the requirement that warns in the table.
    assert prometheus.query('preflight_check_outcome{check="Memory", outcome="failed"} == 1')
    quantile = "histogram_quantile(0.5, sum by (le) (preflight_chat_turn_duration_seconds_bucket))"
    (half,) = prometheus.query(quantile)
    assert float(half["value"][1]) > 0


def test_every_query_has_data_and_every_alert_is_evaluated(scraped: tuple[Place, Prometheus]) -> None:
    """Prometheus takes each rule, and a server that is well has none firing but what waits for its half hour.

    Each panel and variable shows something of a server that has served and has been asked.
    """
    place, prometheus = scraped
    until(lambda: bool(prometheus.query("preflight_healthy == 1")), "it is scraped")

    def rules() -> list[Any]:
        data = prometheus.ask("rules")
        return [] if data is None else [rule for group in data["groups"] for rule in group["rules"]]

    until(lambda: {rule["health"] for rule in rules()} == {"ok"}, "each rule was evaluated")
    assert [rule["name"] for rule in rules()] == [name for name, _ in expressions.rules()]

    def active() -> set[str]:
        return {rule["name"] for rule in rules() if rule["state"] != "inactive"}

    # Before the first scrape there was nobody, and that counts until the rules are evaluated again.
    until(lambda: active() == {"PreflightCheckWarns"}, "the warning waits, and nothing else")
    every_query_has_data(place, prometheus)
    place.started[0].stop()
    until(lambda: bool(prometheus.query('up{job="preflight"} == 0')), "its end was noticed")
    names = {"PreflightGone", "PreflightInstanceDown"}
    until(lambda: active() >= names, "both alerts wait for their time")
