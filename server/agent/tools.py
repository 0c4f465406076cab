"""What the agent can find out about its own machine. No tool stops a process, writes a file or shows a secret."""

from __future__ import annotations

import asyncio
import difflib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from preflight.redaction.redactor import Redactor
from preflight.report import model as report
from preflight.report.model import Check, Report
from preflight.text import plain
from preflight.web.instance import Instance
from preflight.web.past import EarlierRuns
from preflight.web.projection import label, project
from preflight.web.snapshot import Snapshot

LONGEST = 12_000  # characters of a tool's result
KEYS = {"OPENAI_API_KEY": "the language model", "PERPLEXITY_API_KEY": "research (optional)"}
SERVICES = {"PERPLEXITY_API_KEY": "perplexity"}  # optional ones, as the setting not_used calls them
PAST = 20  # past runs that a check is looked up in

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Tool:
    """A question that a model can ask: its description in OpenAI's format, and who answers it."""

    name: str
    about: str
    answer: Callable[..., Awaitable[Answer]]
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    acts: bool = False
    """Whether it has an effect: only a person's own words may lead to its call."""

    @property
    def schema(self) -> dict[str, Any]:
        properties = {name: dict(about) for name, about in self.parameters.items()}
        parameters = {"type": "object", "properties": properties, "required": list(self.required)}
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.about, "parameters": parameters},
        }


def as_data(source: str, value: object) -> str:
    """Text from outside for a model: JSON between delimiters that it cannot contain."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if len(text) > LONGEST:
        text = json.dumps(
            {"left_out": f"more than {LONGEST} characters", "beginning": text[:LONGEST]}, ensure_ascii=False
        )
    escaped = text.replace("<", "\\u003c")  # in JSON a < can only stand inside a text
    return f'<data source="{source}">\n{escaped}\n</data>'


def from_data(text: str) -> Any:
    """What :func:`as_data` was given; None for anything else."""
    match = re.fullmatch(r'<data source="\w+">\n(.*)\n</data>', text, re.DOTALL)
    try:
        return json.loads(match[1]) if match else None
    except ValueError:
        return None


class Toolbox:
    """The tools of one instance. ``rerun`` starts a re-run, where the server has one; see chat/resources.py."""

    def __init__(
        self,
        instance: Instance,
        redactor: Redactor,
        snapshot: Snapshot,
        past: EarlierRuns,
        rerun: Callable[[], Awaitable[Answer]] | None = None,
    ) -> None:
        self._instance = instance
        self._redactor = redactor
        self._snapshot = snapshot
        self._past = past
        self._rerun = rerun
        name = {"type": "string", "description": "the check's title, or words from it"}
        tools = [
            Tool(
                "read_report",
                "The latest preflight report: what failed, warnings, keys, server facts.",
                self.read_report,
            ),
            Tool(
                "explain_check",
                "One check: what it found and how to fix it.",
                self.explain_check,
                {"name": name},
                ("name",),
            ),
            Tool(
                "port_status",
                "Which processes listen on a TCP port of this machine; without a port, on the server's own address.",
                self.port_status,
                {"port": {"type": "integer", "minimum": 1, "maximum": 65535}},
            ),
            Tool("check_history", "How one check fared in past runs.", self.check_history, {"name": name}, ("name",)),
        ]
        if rerun is not None:
            tools.append(Tool("start_rerun", "Run all checks again, now; says where to follow it.", rerun, acts=True))
        self.tools: dict[str, Tool] = {tool.name: tool for tool in tools}

    @property
    def acts(self) -> bool:
        """Whether there is a tool with an effect."""
        return any(tool.acts for tool in self.tools.values())

    def offered(self, *, acting: bool) -> dict[str, Tool]:
        """The tools that a model may call; ``acting``: including those with an effect."""
        return {name: tool for name, tool in self.tools.items() if acting or not tool.acts}

    def schemas(self, *, acting: bool) -> list[dict[str, Any]]:
        return [tool.schema for tool in self.offered(acting=acting).values()]

    async def call(self, name: str, arguments: Mapping[str, Any], *, acting: bool = False) -> str:
        """Answer a model's question, redacted, as data; if the question cannot be answered, the data says so."""
        offered = self.offered(acting=acting)
        tool = offered.get(name)
        if tool is None:
            answer: Answer = {"error": f"there is no such tool now; the tools are {', '.join(offered)}"}
        else:
            known = {key: value for key, value in arguments.items() if key in tool.parameters}
            fault = _fault(tool, known)
            try:
                answer = {"error": fault} if fault else await tool.answer(**known)
            except Exception as error:  # noqa: BLE001  # a tool that breaks is an answer, and the turn goes on
                answer = {"error": f"the tool failed ({type(error).__name__})"}
        return as_data(name if tool else "tools", plain(self._redactor.value(answer)))

    async def _checked(self) -> Report | None:
        """The latest report that says something about its checks."""
        await self._snapshot.look()
        return self._snapshot.trusted()

    async def read_report(self) -> Answer:
        """The latest report in short, and facts about the server."""
        settings = self._instance.settings
        checked, found = await self._checked(), self._snapshot.latest()
        body = project(found, self._instance, checked)
        checks = checked.checks if checked else ()
        return {
            **{key: body[key] for key in ("status", "reason", "run_id", "origin", "generated_at", "summary")},
            "may_start": found.may_start if found else None,
            "server": body["server"],
            "draining": self._instance.draining,
            "python": {"running": report.python(), "required": settings.python},
            "critical_errors": [_told(check) for check in checks if check.blocks],
            "warnings": [_told(check) for check in checks if check.warns],
            "keys": {name: self._key(name, checks) for name in KEYS},
            "env_file": {
                "path": str(settings.envfile.path),
                "exists": settings.envfile.exists,
                "used": not settings.demo,
            },
            "demo": settings.demo,
            "dependencies": body["dependencies"],
            "checks": {check.title: check.outcome for check in checks},
        }

    def _key(self, name: str, checks: tuple[Check, ...]) -> Answer:
        settings = self._instance.settings
        loaded = bool(settings.environment.get(name, "").strip())
        said = next((check for check in checks if check.details.get("variable") == name), None)
        used = SERVICES.get(name, "") not in settings.unused
        source = None
        if loaded:
            same = settings.envfile.values.get(name) == settings.environment[name]
            source = "env file" if same else "environment"
        return {
            "for": KEYS[name],
            "loaded": loaded,
            "source": source,
            "used": used,
            "message": said.message if said else "",
            "fix": (said.fix if said else "") or (f"set {name} in {settings.envfile.path}" if used else ""),
        }

    async def explain_check(self, name: str) -> Answer:
        """One check of the latest report."""
        found = await self._checked()
        if found is None:
            return {"error": "no suite has run for this instance"}
        check = find(name, found.checks)
        if check is None:
            return {"error": "no check of that name", "checks": [one.title for one in found.checks]}
        return {
            **_told(check),
            "requirement": check.requirement,
            "status": label(check),
            "details": dict(check.details),
        }

    async def port_status(self, port: int | None = None) -> Answer:
        """Who listens, and in which unit or container."""
        return await asyncio.to_thread(self._listening, port)

    def _listening(self, port: int | None) -> Answer:
        from preflight import ports
        from preflight.instances import neighbours, socketfiles
        from preflight.redaction.keys import common_secrets

        settings = self._instance.settings
        secrets = common_secrets(settings)
        own = port is None or (port == settings.port and settings.uds is None)
        where: Answer
        if port is None and settings.uds is not None:
            found = socketfiles.look(settings.uds)
            where = {"uds": str(settings.uds)}
            if found.problem:
                return {**where, "error": found.problem}
            free, holders = not found.listens, socketfiles.holders(settings.uds, found, secrets)
            ours = neighbours.on_port(settings)
        else:
            number = port or settings.port
            where = {"port": number, "host": settings.host}
            try:
                holders = ports.listeners(settings.host, number, secrets=secrets)
            except ports.PortUnavailable as error:
                return {**where, "error": str(error)}
            free, ours = not holders, neighbours.of_holders(number, holders, settings.state_dir)
        return {
            **where,
            "free": free,
            "own_server": own,
            "served_by_this_project": bool(ours) and all(one.is_of(settings) for one in ours),
            "holders": [
                {
                    "title": holder.title,
                    "command": holder.command,
                    "pid": holder.pid,
                    "unit": holder.unit,
                    "container": holder.container,
                    "addresses": list(holder.addresses),
                }
                for holder in holders
            ],
        }

    async def check_history(self, name: str) -> Answer:
        """One check in the runs that are kept, newest first."""
        latest = await self._checked()
        check = find(name, latest.checks) if latest else None
        if check is None:
            titles = [one.title for one in latest.checks] if latest else []
            return {"error": "no check of that name", "checks": titles}
        runs = await self._past.runs(PAST)
        past = [
            {"at": run.started_at, "origin": run.origin, "outcome": one.outcome, "message": one.message}
            for run, _flips in runs
            if (one := run.checks.get(check.title)) is not None
        ]
        return {"title": check.title, "runs": past}


def find(name: str, checks: tuple[Check, ...]) -> Check | None:
    """The check that is meant: its title, its variable, or most of its words."""
    wanted = _words(name)
    if not wanted:
        return None

    def score(check: Check) -> float:
        own = _words(check.title) | _words(str(check.details.get("variable", "")))
        shared = len(wanted & own)
        closeness = difflib.SequenceMatcher(
            None, " ".join(sorted(wanted)), " ".join(sorted(_words(check.title)))
        ).ratio()
        # A check with a problem is more likely meant than one without.
        trouble = 0.2 * check.blocks + 0.1 * check.warns
        return shared + closeness + (trouble if shared else 0)

    best = max(checks, key=score, default=None)
    return best if best is not None and score(best) >= 1 else None


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", text.lower())) - {"the", "a", "an", "is", "my", "check", "please", "to", "of"}


def _told(check: Check) -> Answer:
    return {
        "title": check.title,
        "severity": check.severity,
        "outcome": check.outcome,
        "message": check.message,
        "fix": check.fix,
    }


def _fault(tool: Tool, arguments: Mapping[str, Any]) -> str:
    for name in tool.required:
        if name not in arguments:
            return f"{name} is missing"
    for name, value in arguments.items():
        about = tool.parameters[name]
        if about["type"] == "string" and not (isinstance(value, str) and len(value) <= 500):
            return f"{name} must be a text of at most 500 characters"
        if about["type"] == "integer" and (
            not isinstance(value, int) or isinstance(value, bool) or not about["minimum"] <= value <= about["maximum"]
        ):
            return f"{name} must be a whole number from {about['minimum']} to {about['maximum']}"
    return ""
