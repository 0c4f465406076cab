"""``--port-status`` and ``--free-port``: who holds the port, and freeing it without starting anything."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.doubles import LISTENER
from tests.e2e.place import KEYS, Place, Started, get, listening, make_place


def lines(started: Started) -> set[str]:
    """What it printed, without the columns' padding."""
    return {" ".join(line.split()) for line in started.stdout.splitlines()}


def as_json(started: Started) -> dict[str, Any]:
    """The one document that it printed."""
    shown: dict[str, Any] = json.loads(started.stdout)
    return shown


def asked(place: Place, *options: str) -> Started:
    """The command, which starts nothing and complains of nothing."""
    one = place.run("--demo", *options)
    assert one.stderr == ""
    assert not one.family()
    assert not place.report_file.exists()
    return one


# --port-status.


def test_status_of_a_free_port(place: Place) -> None:
    """A port that a start could have: exit code 0."""
    one = asked(place, "--port-status")
    assert one.process.returncode == 0
    assert lines(one) == {"Host 127.0.0.1", f"Port {place.port}", "Status available"}
    assert not listening(place.port)


def test_status_of_a_busy_port(place: Place) -> None:
    """Somebody's server: who it is, and exit code 1; it is left alone."""
    holder = place.listener()
    one = asked(place, "--port-status")
    assert one.process.returncode == 1
    assert "Status in use" in lines(one)
    row = next(line for line in lines(one) if line.startswith(f"{holder.pid} "))
    assert f"127.0.0.1:{place.port}" in row
    assert f"listener.py {place.port}" in row
    assert holder.process.poll() is None


def test_status_as_json(place: Place) -> None:
    """--format json: one document, with the same exit codes."""
    free = asked(place, "--port-status", "--format", "json")
    assert free.process.returncode == 0
    shown = as_json(free)
    assert shown == {"host": "127.0.0.1", "port": place.port, "status": "available", "since": None, "holders": []}
    holder = place.listener()
    busy = asked(place, "--port-status", "--format", "json")
    assert busy.process.returncode == 1
    shown = as_json(busy)
    assert shown["status"] == "in use"
    (row,) = shown["holders"]
    assert (row["pid"], row["addresses"]) == (holder.pid, [f"127.0.0.1:{place.port}"])


def test_status_of_another_address(place: Place) -> None:
    """An address that is not this machine's is a problem, and not available."""
    one = asked(place, "--port-status", "--host", "192.0.2.1")
    assert one.process.returncode == 1
    assert "Status available" not in lines(one)
    assert any(line.startswith("Problem: ") for line in lines(one))


# --free-port.


def test_frees_a_listener(place: Place) -> None:
    """The holder is asked to end, each step is said, and the port is free."""
    holder = place.listener()
    one = asked(place, "--free-port")
    assert one.process.returncode == 0, one.output
    assert holder.wait() == -signal.SIGTERM
    assert any("SIGTERM: " in line and f"(PID {holder.pid})" in line for line in lines(one))
    assert "SIGKILL" not in one.stdout
    assert "Status available" in lines(one)
    assert any(line.startswith("Stopped: ") for line in lines(one))
    assert not listening(place.port)


def test_frees_a_stubborn_one(place: Place) -> None:
    """Who ignores SIGTERM gets SIGKILL after the grace."""
    holder = place.listener("stubborn")
    place.environ["PREFLIGHT_PORT_GRACE"] = "0.3"
    one = asked(place, "--free-port")
    assert one.process.returncode == 0, one.output
    assert holder.wait() == -signal.SIGKILL
    assert "SIGKILL: " in one.stdout
    assert not listening(place.port)


def test_frees_as_json(place: Place) -> None:
    """--format json: nothing but the document, with every step in it."""
    holder = place.listener()
    one = asked(place, "--free-port", "--format", "json")
    assert one.process.returncode == 0
    shown = as_json(one)
    assert holder.wait() == -signal.SIGTERM
    assert (shown["status"], shown["holders"], shown["refusals"]) == ("available", [], [])
    assert {"SIGTERM", "exited"} <= {step["action"] for step in shown["steps"]}
    assert any(str(holder.pid) in title for title in shown["stopped"])


def test_free_already(place: Place) -> None:
    """A free port is free: exit code 0, and nobody was stopped."""
    one = asked(place, "--free-port")
    assert one.process.returncode == 0
    assert "Status available" in lines(one)
    assert "Stopped" not in one.stdout


def test_dry_run(place: Place) -> None:
    """--dry-run says who would be stopped, stops nobody, and its exit code is the real one's."""
    one = asked(place, "--free-port", "--dry-run")
    assert one.process.returncode == 0
    assert "Nothing to stop." in lines(one)
    holder = place.listener()
    one = asked(place, "--free-port", "--dry-run")
    assert one.process.returncode == 0
    assert any(line.startswith("Would stop: ") and str(holder.pid) in line for line in lines(one))
    assert "SIGTERM" not in one.stdout
    assert holder.process.poll() is None
    assert listening(place.port)


def test_policy_never(place: Place) -> None:
    """With --no-cleanup nobody is stopped: exit code 1, and the command that would do it."""
    holder = place.listener()
    one = asked(place, "--free-port", "--no-cleanup")
    assert one.process.returncode == 1
    assert "Status in use" in lines(one)
    assert f"Fix: kill {holder.pid}" in lines(one)
    assert holder.process.poll() is None


def test_infrastructure_is_refused(place: Place) -> None:
    """A database on the port is left alone, and the exit code says so, of the dry run as well."""
    program = place.folder / "listener.py"
    program.write_text(LISTENER)
    named = place.folder / "redis-server"
    named.symlink_to(sys.executable)
    holder = place.spawn(str(named), str(program), str(place.port)).until_says("listening")
    for options in (["--free-port"], ["--free-port", "--dry-run"]):
        one = asked(place, *options)
        assert one.process.returncode == 1, one.output
        assert "infrastructure (redis-server)" in one.stdout
        assert "SIGTERM" not in one.stdout
        assert holder.process.poll() is None
        assert listening(place.port)


@pytest.mark.parametrize("form", [[], ["--format", "json"]], ids=["text", "json"])
def test_secrets_are_not_shown(place: Place, form: list[str]) -> None:
    """A key in a holder's command line is shown neither as text nor as JSON."""
    place.write_env_file(**KEYS)
    key = KEYS["OPENAI_API_KEY"]
    holder = place.listener(f"--key={key}")
    for options in (["--port-status"], ["--free-port", "--dry-run"], ["--free-port"]):
        one = place.run(*options, *form, PREFLIGHT_PYTHON=">=3.11")
        assert key not in one.output
        assert "canary" not in one.output
        if options != ["--free-port"]:  # which names whom it stopped, and not their command lines
            assert "--key=[redacted]" in one.stdout
    assert holder.wait() == -signal.SIGTERM


def test_our_instance(place: Place, tmp_path: Path) -> None:
    """An instance of ours is called that, with the time since when it serves, and stopped as gracefully as anybody.

    It is known from everywhere: records are the user's, not the checkout's.
    """
    instance = place.start("--demo", "--app", "small:app").until_ready()
    place.report_file.unlink()
    one = asked(place, "--port-status")
    assert one.process.returncode == 1
    assert any(line.startswith("Status served by an instance of ours since 20") for line in lines(one))
    assert any(line.startswith(f"{instance.pid} ") for line in lines(one))
    other = make_place(tmp_path / "other")
    try:
        other.environ["XDG_RUNTIME_DIR"] = place.environ["XDG_RUNTIME_DIR"]
        other.port = place.port
        shown = as_json(asked(other, "--port-status", "--format", "json"))
    finally:
        other.close()
    assert shown["status"] == "served by an instance of ours"
    assert instance.pid in {row["pid"] for row in shown["holders"]} | {row["parent"] for row in shown["holders"]}
    assert get(place.url) == (200, "small")

    one = asked(place, "--free-port")
    assert one.process.returncode == 0, one.output
    assert instance.wait() == 0
    assert "Stopping (SIGTERM)." in instance.stdout
    assert "SIGKILL" not in one.stdout
    instance.left_nothing()
    assert os.listdir(place.folder / "runtime" / "preflight") == [f"{place.port}.lock"]
