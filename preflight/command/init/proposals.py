"""Ready-made requirements for what a project's files name: databases, services, keys, migrations and MCP servers.

They are written as comments, and people uncomment what their server cannot do without. Of a variable's value only the
scheme of a URL is shown, and of commands and URLs only what cannot be secret.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from preflight.command.init import addresses, compose
from preflight.command.init.addresses import Address, address
from preflight.command.init.folder import Folder
from preflight.redaction.keys import key_like

MOST = 12  # proposals; nobody reads more than that
IMAGES = {
    "postgres": 5432, "postgresql": 5432, "pgvector": 5432, "postgis": 5432, "timescaledb": 5432, "redis": 6379,
    "valkey": 6379, "mysql": 3306, "mariadb": 3306, "mongo": 27017, "rabbitmq": 5672, "qdrant": 6333, "chroma": 8000,
    "ollama": 11434, "elasticsearch": 9200, "opensearch": 9200, "minio": 9000, "kafka": 9092, "nats": 4222,
}  # fmt: skip
"""Images of services, and where each listens for its clients: they may have other ports as well."""
FORMS = {5432: "postgres", 6379: "redis"}
"""The factory that asks the services that listen on this port by default."""
LOCAL = {"localhost", "127.0.0.1", "::1", "0.0.0.0", "host.docker.internal"}
PROVIDERS = re.compile(r"(?:OPENAI|ANTHROPIC|MISTRAL|GOOGLE|GEMINI|AZURE_OPENAI|PERPLEXITY)_API_KEY")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,80}")
LINE = re.compile(r"\s{0,40}(?:export\s{1,8})?([A-Za-z_][A-Za-z0-9_]{0,80})\s{0,8}=\s{0,8}([\"']?)(.*)")
WORD = re.compile(r"[\w@./:=-]{1,60}")
COMPOSE = re.compile(r"(?:.*/)?(?:docker-)?compose[\w.-]*\.ya?ml")
ENV_FILES = (".env", ".env.example", ".env.sample", ".env.template")
MCP_FILES = ("mcp.json", ".mcp.json")


@dataclass(frozen=True, slots=True)
class Proposal:
    """One line of a suite."""

    name: str
    call: str
    why: str
    """Where the project names it."""

    @property
    def line(self) -> str:
        return f"test_{self.name} = ready.{self.call}  # {self.why}"


@dataclass(frozen=True, slots=True)
class NamedVariable:
    """A variable that a file names."""

    name: str
    why: str
    """Where, for people: "main.py:3 reads it"."""
    leads_to: Address | None = None
    """Where its value leads, if it has one that says so."""


def proposals(
    folder: Folder, base: str, variables: Iterable[NamedVariable], env_file: str, pyproject: Mapping[str, Any]
) -> list[Proposal]:
    """What the files of a folder name. ``variables`` are those that the code reads.

    ``base`` is the folder's name in the project, and ``env_file`` where the code has its variables from, relative to
    the folder. ``pyproject`` is the project's.
    """
    graph = _document(folder, "langgraph.json")
    more = graph.get("env") if isinstance(graph.get("env"), str) else ""
    filed = [
        variable
        for name in dict.fromkeys([env_file, str(more), *ENV_FILES])
        if name and not name.startswith(("/", ".."))
        for variable in _in_env_file(folder, base, name)
    ]
    composed = list(_composed(folder, base, {variable.name for variable in filed}))
    named = [*filed, *variables]
    names = {variable.name for variable in named}
    # Variables that compose gives to a service without the project's code are not the project's.
    named += [
        variable for placed, its in composed for variable in its if placed.service.is_built or variable.name in names
    ]
    known = _each_once(named)
    by_name: dict[str, Proposal] = {}
    for proposal in (
        *filter(None, map(_of_variable, known)),
        *_of_migrations(folder, base, pyproject),
        *(proposal for service, _ in composed if (proposal := _of_service(service, known))),
        *_of_mcp(folder),
        *_of_graphs(base, graph),
    ):
        by_name.setdefault(proposal.name, proposal)
    return list(by_name.values())[:MOST]


# Variables.


def _in_env_file(folder: Folder, base: str, name: str) -> Iterator[NamedVariable]:
    data = folder.read(name)
    for number, line in enumerate((data or b"").decode("utf-8", "replace").splitlines(), start=1):
        if match := LINE.match(line):
            value = match[3].partition(match[2])[0] if match[2] else re.split(r"(?:^|\s)#", match[3], maxsplit=1)[0]
            yield NamedVariable(match[1], f"{base}{name}:{number} names it", address(value))


def _each_once(named: Iterable[NamedVariable]) -> list[NamedVariable]:
    """Each variable with the first place where its value says something, else with the first that names it."""
    first: dict[str, NamedVariable] = {}
    for variable in named:
        before = first.get(variable.name)
        if before is None or (before.leads_to is None and variable.leads_to is not None):
            first[variable.name] = variable
    return [variable for variable in first.values() if NAME.fullmatch(variable.name)]


def _of_variable(variable: NamedVariable) -> Proposal | None:
    name, leads_to = variable.name, variable.leads_to
    if PROVIDERS.fullmatch(name):
        return Proposal(name.lower(), f'api_key("{name}")', variable.why)
    call = addresses.call(name, leads_to)
    if not call:
        return None
    why = variable.why
    if call.startswith("variable(") and not addresses.is_hook(name):
        why += "; ready.http or ready.tcp would check the service itself"
    elif leads_to and leads_to.scheme:
        why += f" ({leads_to.scheme}://)"
    return Proposal(name.lower(), call, why)


# Services of compose files.


def _composed(folder: Folder, base: str, given: set[str]) -> Iterator[tuple[_Placed, list[NamedVariable]]]:
    """The services of compose files, each with the variables that it is given."""
    for name in folder.commands:
        if COMPOSE.fullmatch(name):
            text = (folder.read(name) or b"").decode("utf-8", "replace")
            for service in compose.services(text, given):
                variables = [
                    NamedVariable(variable, f"{base}{name}:{line} gives it to {_label(service.name)}", address(value))
                    for variable, value, line in service.variables
                ]
                yield _Placed(f"{base}{name}", service), variables


@dataclass(frozen=True, slots=True)
class _Placed:
    """A service, and the file that has it."""

    file: str
    service: compose.Service


def _of_service(placed: _Placed, variables: Iterable[NamedVariable]) -> Proposal | None:
    """A proposal that a service can be reached at its published port; only containers reach an unpublished one."""
    service, label = placed.service, _label(placed.service.name)
    if not service.image or service.is_built or not service.ports or not label:
        return None
    usual = IMAGES.get(service.image)
    port = next((one for one in service.ports if one.target == usual), service.ports[0])
    # A service that a variable leads to is asked through the variable, with the login and all else in its value.
    if any(_leads_there(one, service.name, port, usual) for one in variables):
        return None
    call = f'tcp("{port.host}:{port.published}")'
    return Proposal(f"service_{label}", call, f"{placed.file}:{service.line} publishes {label} there")


def _leads_there(variable: NamedVariable, service: str, port: compose.Port, usual: int | None) -> bool:
    found = variable.leads_to
    call = addresses.call(variable.name, found)
    if found is not None and found.host:
        is_here = found.host in LOCAL and (found.port or usual) == port.published
        return bool(call) and (found.host == service or is_here)
    # The variable's name says which kind of service it is for, and no host says that it is another one.
    return port.target == usual and call.startswith(f"{FORMS.get(port.target)}(")


def _label(name: str) -> str:
    """A name as a part of a Python one."""
    return re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()[:60]


# The rest.


def _of_migrations(folder: Folder, base: str, pyproject: Mapping[str, Any]) -> Iterator[Proposal]:
    tool = pyproject.get("tool")
    found = []
    if folder.has("alembic.ini"):
        found.append(("alembic", "alembic.ini"))
    elif isinstance(tool, dict) and "alembic" in tool and not base:
        found.append(("alembic", "pyproject.toml"))
    if b"django" in (folder.read("manage.py") or b""):
        found.append(("django", "manage.py"))
    for kind, file in found:
        config = f', config="{base}{file}"' if base else ""
        name = "migrations" if len(found) == 1 else f"migrations_{kind}"
        yield Proposal(name, f'migrations("{kind}"{config})', f"{base}{file} is there")


def _of_mcp(folder: Folder) -> Iterator[Proposal]:
    for file in MCP_FILES:
        servers = _document(folder, file).get("mcpServers")
        for name, server in servers.items() if isinstance(servers, dict) else ():
            if not isinstance(server, dict) or not WORD.fullmatch(str(name)):
                continue
            label = _label(str(name))
            if label and (call := _server(server)):
                yield Proposal(f"mcp_{label}", f"mcp_server({call})", f"{file} names the server")


def _server(server: Mapping[str, Any]) -> str:
    """How an MCP server is reached, as it is written in Python; empty if that could show a secret."""
    url, command, arguments = server.get("url"), server.get("command"), server.get("args", [])
    if isinstance(url, str):
        plain = re.fullmatch(r"https?://[\w.-]{1,100}(?::\d{1,5})?(?:/[\w.-]{1,20}){0,4}/?", url)
        return json.dumps(url) if plain else ""
    words = [command, *arguments] if isinstance(arguments, list) else []
    if not words or not all(isinstance(word, str) and WORD.fullmatch(word) for word in words):
        return ""
    # A word behind "--token", or one that assigns something, may be the secret itself.
    if any("=" in word or key_like(word.strip("-").replace("-", "_")) for word in words):
        return ""
    return json.dumps(words)


def _of_graphs(base: str, graph: Mapping[str, Any]) -> Iterator[Proposal]:
    graphs = graph.get("graphs")
    for name, target in graphs.items() if isinstance(graphs, dict) else ():
        path = target.partition(":")[0].removeprefix("./") if isinstance(target, str) else ""
        label = _label(str(name))
        if label and path.endswith(".py") and WORD.fullmatch(path):
            yield Proposal(f"graph_{label}", f"file({json.dumps(base + path)})", "langgraph.json names the graph")


def _document(folder: Folder, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(folder.read(name) or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
