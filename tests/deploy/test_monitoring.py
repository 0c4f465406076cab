"""deploy/prometheus and deploy/grafana ask for metrics that there are, and get answers from a server's own."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml  # type: ignore[import-untyped]
from prometheus_client import parser

from preflight.web.instance import Instance
from server.chat import metrics as chat
from tests.deploy import expressions
from tests.deploy.manifests import ROOT, configuration, one
from tests.scraping import MakeCheck, MakeInstance, MakeReport, made, scrape

PROMETHEUS = ROOT / "deploy" / "prometheus"
OF_PROMETHEUS = {"up"}


def exported(instance: Instance) -> set[str]:
    """Every name that a scrape of the agent server can have."""
    load = SimpleNamespace(connections=0, sessions=0)
    turns = chat.Histogram(chat.BUCKETS)
    text = scrape(made(instance, metrics=lambda _load: chat.collect(turns, load)))[1]
    return {
        sample.name for family in parser.text_string_to_metric_families(text) for sample in family.samples
    }  # fmt: skip


@pytest.fixture
def names(make_check: MakeCheck, make_report: MakeReport, make_instance: MakeInstance) -> set[str]:
    return exported(make_instance(make_report(make_check("One", "failed"))))


def test_what_is_asked_for_is_exported(names: set[str]) -> None:
    """Alerts and panels name no metric that no server has."""
    for what, expression in itertools.chain(expressions.rules(), expressions.queries()):
        asked = expressions.metrics(expression)
        assert asked, what
        assert asked <= names | OF_PROMETHEUS, f"{what}: {asked - names}"


def test_no_metric_is_left_out(names: set[str]) -> None:
    """The dashboard shows all that we count; what a library counts of a process is chosen from."""
    shown = set().union(*(expressions.metrics(expression) for _, expression in expressions.queries()))
    ours = {name for name in names if name.startswith("preflight_") and not name.endswith(("_sum", "_created"))}
    implied = {"preflight_last_run_timestamp_seconds", "preflight_last_run_info"}  # an age and an alert say the same
    assert ours - implied <= shown


@pytest.mark.parametrize(
    "expression,found",
    [
        ("sum by (job, check) (preflight_check_blocks{job=~\"$job\"} == 1)", {"preflight_check_blocks"}),
        ("a_total - on (x) group_left (y) rate(b_total[5m] offset 1h) > 1e3", {"a_total", "b_total"}),
        ('time() - c{d="e f"}', {"c"}),
    ],
)  # fmt: skip
def test_names_are_found_in_expressions(expression: str, found: set[str]) -> None:
    """Neither functions nor labels, words or numbers are metrics."""
    assert expressions.metrics(expression) == found


def test_every_alert_has_an_example() -> None:
    """rules_test.yml has a case in which it fires, and one in which it does not."""
    fires: dict[str, set[bool]] = {}
    for case in yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]:
        for entry in case["alert_rule_test"]:
            fires.setdefault(entry["alertname"], set()).add(bool(entry.get("exp_alerts")))
    assert fires == {name: {True, False} for name, _ in expressions.rules()}


def test_the_alert_for_old_runs_knows_the_interval() -> None:
    """It waits for longer than two of the re-runs that the ConfigMap asks for."""
    (expression,) = [text for name, text in expressions.rules() if name == "PreflightStale"]
    minutes = int(configuration()["PREFLIGHT_REFRESH"].removesuffix("m"))
    assert int(expression.rpartition(">")[2]) > 2 * 1.1 * 60 * minutes


def test_the_scrape_finds_the_pods() -> None:
    """What it keeps are the labels and the port of the Deployment's pods, in their namespace."""
    (job,) = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
    template = one("Deployment")["spec"]["template"]
    labels, (port,) = template["metadata"]["labels"], template["spec"]["containers"][0]["ports"]
    kept = job["relabel_configs"][0]
    assert kept["regex"].split(";") == [
        labels["app.kubernetes.io/name"], labels["app.kubernetes.io/component"], port["name"],
    ]  # fmt: skip
    assert job["kubernetes_sd_configs"][0]["namespaces"]["names"] == [one("Namespace")["metadata"]["name"]]
    assert all(f'job="{job["job_name"]}"' in text for _, text in expressions.rules() if "up{" in text)


def test_panels_stand_side_by_side() -> None:
    """Every panel has a name, a number and a place of its own, and says what it shows where its name does not."""
    places: set[tuple[int, int]] = set()
    everything = expressions.dashboard()["panels"]
    assert (
        len({panel["id"] for panel in everything}) == len({panel["title"] for panel in everything}) == len(everything)
    )
    for panel in everything:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        own = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not own & places, panel["title"]
        places |= own
    assert all(panel["datasource"]["uid"] == "${datasource}" for panel in expressions.panels())


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None and not os.environ.get("CI"):
        pytest.skip(f"{name} is not installed (Debian: prometheus)")
    assert found is not None
    return found


@pytest.mark.slow
def test_promtool(tmp_path: Path) -> None:
    """The rules do what their examples say, and Prometheus reads its configuration."""
    promtool = program("promtool")
    for name in ("rules.yml", "rules_test.yml"):
        shutil.copy(PROMETHEUS / name, tmp_path)
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    (job,) = configuration["scrape_configs"]
    # Debian's Prometheus is built without Kubernetes: there, static_configs takes the place.
    job["static_configs"] = [{"targets": ["127.0.0.1:8002"]} for _ in job.pop("kubernetes_sd_configs")]
    job["authorization"]["credentials_file"] = "preflight.token"
    (tmp_path / "preflight.token").touch()
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    for command in (("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")):
        done = subprocess.run([promtool, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    # Examples that nothing could fail would be none.
    (tmp_path / "rules.yml").write_text(
        (tmp_path / "rules.yml").read_text().replace("== 0\n        for", "== 7\n        for")
    )
    assert subprocess.run([promtool, "test", "rules", "rules_test.yml"], cwd=tmp_path, capture_output=True).returncode
