"""``--port-status`` and ``--free-port``: who holds the port, and freeing it without starting anything.

Plain lines and no rich: this is typed when something is in the way, and should be over at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from preflight import ports
from preflight.instances import neighbours, socketfiles
from preflight.instances.neighbours import Neighbour
from preflight.output import audit
from preflight.output.log import Log, LogFile
from preflight.output.plainlines import cells, columns, folded
from preflight.redaction.keys import common_secrets
from preflight.redaction.redactor import Redactor
from preflight.settings.model import Settings
from preflight.suite import claimed, occupied
from preflight.text import foreign, plain, printable
from preflight.times import local_of

AVAILABLE = "available"
IN_USE = "in use"
UNAVAILABLE = "not available here"
FOREIGN = "in use by another user"
OURS = "served by an instance of ours"
HOLDER = ("PID", "User", "Name", "Since", "Belongs to", "Address", "Command")
LABEL = 8  # columns of "Host", "Status" and the like, with the blanks behind


def status(settings: Settings, *, as_json: bool = False) -> int:
    """Show who holds the port; exit code 0 if it is available, else 1."""
    shown = described(settings)
    _print(settings, shown, as_json=as_json)
    return 0 if shown["status"] == AVAILABLE else 1


def described(settings: Settings) -> dict[str, object]:
    """Who holds the port, as JSON values; commands in it may contain secrets."""
    if settings.uds is not None:
        return _path_described(settings, settings.uds)
    plan = ports.plan(settings.host, settings.port, occupied.policy_of(settings, []))
    shown = _described(settings, plan.holders, neighbours.on_port(settings, plan.holders), free=plan.free)
    if plan.problem and not plan.holders:
        shown |= {"status": UNAVAILABLE, "problem": plan.problem, "fix": plan.fix or ""}
    return shown


def free(
    settings: Settings,
    *,
    dry_run: bool = False,
    as_json: bool = False,
    verbose: bool = False,
    log_file: LogFile | None = None,
) -> int:
    """Free the port, or only say what that would do; exit code 0 if it is (or would be) free, else 1.

    An instance of ours is stopped like any other process, which was asked for, and gets its grace. One that drains is
    waited for first.
    """
    if settings.uds is not None:
        return _free_path(settings, settings.uds, dry_run=dry_run, as_json=as_json, log_file=log_file)
    ours = neighbours.on_port(settings)
    policy = occupied.policy_of(settings, ours)
    if dry_run:
        shown = _would_free(settings, policy, ours)
    else:
        redactor = Redactor.of(settings)
        log = _log(settings, redactor, log_file)

        def on_step(step: ports.Step) -> None:
            if event := audit.freeing(step, settings.address):
                log.audit(event)
            if not as_json and step.action != "held":
                line = printable(redactor.text(claimed.told(step, when=verbose)))
                print(folded(line, columns(sys.stdout)), flush=True)

        shown = _freed(settings, policy, ours, on_step)
    _print(settings, shown, as_json=as_json)
    return 1 if "problem" in shown else 0


def _would_free(settings: Settings, policy: ports.Policy, ours: Sequence[Neighbour]) -> dict[str, object]:
    plan = ports.plan(settings.host, settings.port, policy)
    shown = _described(settings, plan.holders, ours, free=plan.free)
    draining = [neighbour for neighbour in ours if not neighbour.stays]
    stopped_last = {holder.pid for holder in neighbours.others(plan.holders, draining)}
    shown["would_stop"] = [holder.title for holder in plan.stop if holder.pid in stopped_last]
    shown["would_sweep"] = [f"{process.name} (PID {process.pid})" for process in plan.sweep]
    return shown | _judged(plan)


def _freed(
    settings: Settings, policy: ports.Policy, ours: Sequence[Neighbour], on_step: Callable[[ports.Step], None]
) -> dict[str, object]:
    occupied.wait_for_drains(settings, ours, on_step)
    # Another command that finds the port held by this one would take it for a server.
    taken = ports.take(settings.host, settings.port, policy, on_step=on_step, early=False)
    if taken.socket is not None:
        taken.socket.close()
    free = taken.socket is not None
    shown = _described(settings, () if free else taken.holders, () if free else ours, free=free)
    shown["stopped"] = [holder.title for holder in taken.holders] if free else []
    shown["steps"] = [step.to_dict() for step in taken.steps]
    return shown | _judged(taken)


def _judged(answer: ports.Plan | ports.Taken) -> dict[str, object]:
    """Why each holder is stopped or left alone, and what keeps the port from being freed, if anything does."""
    shown: dict[str, object] = {
        "reasons": claimed.judged(answer.holders, answer.reasons),
        "refusals": [refusal.to_dict() for refusal in answer.refusals],
    }
    return shown | {"problem": answer.problem, "fix": answer.fix or ""} if answer.problem else shown


def _log(settings: Settings, redactor: Redactor, log_file: LogFile | None) -> Log:
    return Log(redactor, log_file, settings.log_format, trail=settings.state.audit)


def _path_described(settings: Settings, path: Path) -> dict[str, object]:
    """Who holds the path of a Unix socket, as JSON values."""
    found = socketfiles.look(path)
    ours = neighbours.on_port(settings)
    problem, fix = socketfiles.described(path, found)
    holders = socketfiles.holders(path, found, common_secrets(settings))
    shown = _described(settings, holders, ours, free=not problem)
    shown |= {"host": None, "port": None, "uds": str(path)}
    if not problem:
        shown["left_over"] = found.stale
    elif not ours:
        shown |= {"problem": problem, "fix": fix}
        if not found.listens:
            shown["status"] = UNAVAILABLE
    return shown


def _free_path(settings: Settings, path: Path, *, dry_run: bool, as_json: bool, log_file: LogFile | None) -> int:
    """Free a Unix socket's path: an instance of ours is asked to end; no other process is."""
    ours = [one for one in neighbours.on_port(settings) if one.answers]
    if ours and not dry_run:
        if ours[0].stays:  # a second signal would end one that drains at once
            os.kill(ours[0].record.pid, signal.SIGTERM)
            step = ports.Step(time.time(), "SIGTERM", ours[0].record.pid, "our instance", "sent")
            if event := audit.freeing(step, settings.address):
                _log(settings, Redactor.of(settings), log_file).audit(event)
        until = time.monotonic() + ours[0].record.stops_within + settings.port_grace
        while socketfiles.look(path).listens and time.monotonic() < until:
            time.sleep(occupied.LOOK)
    if not dry_run:
        socketfiles.sweep(path)
    shown = _path_described(settings, path)
    names = [f"PID {one.record.pid}" for one in ours]
    free = shown["status"] == AVAILABLE
    shown["would_stop" if dry_run else "stopped"] = names if free or dry_run else []
    _print(settings, shown, as_json=as_json)
    return 0 if free or (dry_run and ours) else 1


def _described(
    settings: Settings, holders: Sequence[ports.Holder], ours: Sequence[Neighbour], *, free: bool
) -> dict[str, object]:
    holders = neighbours.without_keepers(holders, ours)
    one = ours[0] if ours and not neighbours.others(holders, ours) else None
    strangers = any(holder.uid not in (None, os.geteuid()) for holder in holders)
    state = AVAILABLE if free else OURS if one and one.record.since else FOREIGN if strangers else IN_USE
    shown: dict[str, object] = {
        "host": settings.host,
        "port": settings.port,
        "status": state,
        "since": (one.record.since or None) if one else None,
        "holders": [holder.to_dict() for holder in holders],
    }
    if one is not None:
        shown["instance"] = _instance(one)
    return shown


def _instance(one: Neighbour) -> dict[str, object]:
    record = one.record
    return {
        "state": record.state if one.answers else "does not answer",
        "doing": record.doing,
        "pid": record.pid,
        "version": record.version,
        "project": foreign(record.project),
        "root": foreign(record.root),
    }


def _print(settings: Settings, shown: Mapping[str, object], *, as_json: bool) -> None:
    redacted = plain(Redactor.of(settings).document(dict(shown)))
    lines = [json.dumps(redacted, indent=2)] if as_json else _lines(redacted, columns(sys.stdout))
    print("\n".join(lines), flush=True)


def _lines(shown: Mapping[str, object], width: int | None) -> list[str]:
    """The lines for people on a terminal with ``width`` columns; None: for output that is not folded."""
    status = f"{shown['status']} since {local_of(str(shown['since']))}" if shown["since"] else f"{shown['status']}"
    instance = shown.get("instance")
    if isinstance(instance, dict):
        status += "".join(f", {instance[name]}" for name in ("state", "doing") if instance[name])
    where = [f"Host    {shown['host']}", f"Port    {shown['port']}"]
    if "uds" in shown:
        where = [f"Socket  {shown['uds']}"]
        status += ", but a server that has ended left its socket file behind" if shown.get("left_over") else ""
    lines = [*where, f"Status  {status}"]
    if isinstance(instance, dict) and instance["root"]:
        lines.append(f"Project {instance['project'] or '?'} ({instance['root']})")
    holders = shown["holders"]
    if isinstance(holders, list) and holders:
        lines += _table(HOLDER, [_row(holder) for holder in holders], width)
    reasons = shown.get("reasons")
    if isinstance(reasons, list) and reasons:
        lines += ["", *reasons]
    would_stop, stopped, problem = shown.get("would_stop"), shown.get("stopped"), shown.get("problem")
    would_sweep = shown.get("would_sweep")
    if isinstance(would_stop, list) and not problem:
        lines.append(f"Would stop: {', '.join(would_stop)}" if would_stop else "Nothing to stop.")
        if isinstance(would_sweep, list) and would_sweep:
            lines.append(f"Would also stop their descendants: {', '.join(would_sweep)}")
    if isinstance(stopped, list) and stopped:
        lines.append(f"Stopped: {', '.join(stopped)}")
    if problem:
        lines.append(f"Problem: {problem}")
    if shown.get("fix"):
        lines.append(f"Fix: {shown['fix']}")
    # The terminal folds a longer fix by itself: it may be a command.
    return [line if line.startswith("Fix: ") else folded(line, width, LABEL) for line in lines]


def _row(holder: Mapping[str, Any]) -> tuple[str, ...]:
    """A holder in the columns of `HOLDER`."""
    return (
        str(holder["pid"] or "?"),
        holder["user"] or "?",
        holder["name"],
        local_of(holder["started_at"]) if holder["started_at"] else "?",
        holder["unit"] or holder["container"] or holder["parent_name"] or "?",
        ", ".join(holder["addresses"]),
        holder["command"],
    )


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """A line for each row, or, where one does not fit, a line for each cell."""
    table = [[name.upper() for name in names], *rows]
    widths = [max(cells(row[column]) for row in table) for column in range(len(names) - 1)]
    lines = [
        "".join([*(cell + " " * (wide - cells(cell) + 2) for cell, wide in zip(row, widths, strict=False)), row[-1]])
        for row in table
    ]
    if width is None or max(map(cells, lines)) <= width:
        return ["", *lines]
    label = max(map(len, names)) + 2
    lines = []
    for row in rows:
        named = zip(names, row, strict=True)
        lines += ["", *(folded(f"{name.ljust(label)}{cell}", width, label) for name, cell in named)]
    return [*lines, ""]
