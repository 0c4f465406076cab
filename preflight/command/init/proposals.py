"""Ready-made requirements for what a project's files name: databases, services, keys, migrations and MCP servers.

They are written as comments, which people take the comment sign from: what a server cannot do without is for them to
say. Of an env file's values only the scheme of a URL is looked at, and of commands and URLs only what cannot be secret
is shown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from preflight.command.init.folder import Folder
from preflight.redaction.keys import key_like

MOST = 12  # proposals; more than that nobody reads
SCHEMES = {
    "postgres": "postgres", "postgresql": "postgres", "redis": "redis", "rediss": "redis", "http": "http",
    "https": "http", "amqp": "tcp", "amqps": "tcp", "mongodb": "tcp", "mysql": "tcp", "mariadb": "tcp", "nats": "tcp",
    "kafka": "tcp", "smtp": "tcp",
}  # fmt: skip
"""Which factory asks what a URL of this scheme is about; a driver behind a "+" is not part of it."""
IMAGES = {
    "postgres": 5432, "pgvector": 5432, "postgis": 5432, "redis": 6379, "valkey": 6379, "mysql": 3306, "mariadb": 3306,
    "mongo": 27017, "rabbitmq": 5672, "qdrant": 6333, "chroma": 8000, "ollama": 11434, "elasticsearch": 9200,
    "opensearch": 9200, "minio": 9000, "kafka": 9092, "nats": 4222,
}  # fmt: skip
"""Images of services, and where each listens."""
FORMS = {"postgres": "postgres", "pgvector": "postgres", "postgis": "postgres", "redis": "redis", "valkey": "redis"}
"""Images of services that a factory of their own asks."""
PROVIDERS = re.compile(r"(?:OPENAI|ANTHROPIC|MISTRAL|GOOGLE|GEMINI|AZURE_OPENAI|PERPLEXITY)_API_KEY")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,80}")
LINE = re.compile(
    r"\s{0,40}(?:export\s{1,8})?([A-Za-z_][A-Za-z0-9_]{0,80})\s{0,8}=\s{0,8}[\"']?([a-z]{2,12})(?:\+\w{1,30})?://"
)
KEY = re.compile(r"\s{0,40}(?:export\s{1,8})?([A-Z][A-Z0-9_]{0,80}_API_KEY)\s{0,8}=")
IMAGE = re.compile(r"\s{1,40}image:\s{0,8}[\"']?(?:[\w.-]{1,80}[/:]){0,4}([a-z]{3,20})(?=[:@\"'\s]|$)")
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


def proposals(folder: Folder, variables: Mapping[str, str], env_file: str) -> list[Proposal]:
    """What the files of a folder name. ``variables`` are those that the code reads, by name, with the place.

    ``env_file`` is where the code has them from, relative to the folder.
    """
    graph = _document(folder, "langgraph.json")
    more = graph.get("env") if isinstance(graph.get("env"), str) else ""
    found: dict[str, Proposal] = {}
    for one in (
        *_of_env_files(folder, dict.fromkeys([env_file, str(more), *ENV_FILES])),
        *_of_names(variables),
        *_of_migrations(folder),
        *_of_compose(folder),
        *_of_mcp(folder),
        *_of_graphs(graph),
    ):
        found.setdefault(one.name, one)
    # A service that a variable leads to is asked there, and not once more by its image.
    return _without_doubles(list(found.values()))[:MOST]


def _without_doubles(found: list[Proposal]) -> list[Proposal]:
    asked = {one.call.partition("(")[0] for one in found if "image" not in one.why}
    return [one for one in found if "image" not in one.why or FORMS.get(one.name, "") not in asked]


def _of_env_files(folder: Folder, names: Mapping[str, None]) -> Iterator[Proposal]:
    for name in names:
        data = folder.read(name) if name and not name.startswith(("/", "..")) else None
        for number, line in enumerate((data or b"").decode("utf-8", "replace").splitlines(), start=1):
            if (match := LINE.match(line)) and match[2] in SCHEMES:
                yield Proposal(
                    match[1].lower(), f'{SCHEMES[match[2]]}("{match[1]}")', f"{name}:{number} has a {match[2]}:// URL"
                )
            elif (match := KEY.match(line)) and PROVIDERS.fullmatch(match[1]):
                yield Proposal(match[1].lower(), f'api_key("{match[1]}")', f"{name}:{number} has the key")


def _of_names(variables: Mapping[str, str]) -> Iterator[Proposal]:
    """What a variable's name says, where no env file says more."""
    for name, place in variables.items():
        if not NAME.fullmatch(name):
            continue
        if PROVIDERS.fullmatch(name):
            yield Proposal(name.lower(), f'api_key("{name}")', f"{place} reads it")
        elif re.search(r"(?:POSTGRES|PG)\w{0,40}(?:URL|URI|DSN)$", name):
            yield Proposal(name.lower(), f'postgres("{name}")', f"{place} reads it")
        elif re.search(r"REDIS\w{0,40}(?:URL|URI|DSN)$", name):
            yield Proposal(name.lower(), f'redis("{name}")', f"{place} reads it")
        elif re.search(r"(?:^|_)(?:URL|URI|DSN)$", name):
            yield Proposal(name.lower(), f'tcp("{name}")', f"{place} reads it")


def _of_migrations(folder: Folder) -> Iterator[Proposal]:
    for name, kind in (("alembic.ini", "alembic"), ("manage.py", "django")):
        if folder.has(name):
            yield Proposal("migrations", f'migrations("{kind}")', f"{name} is there")


def _of_compose(folder: Folder) -> Iterator[Proposal]:
    for name in folder.commands:
        if not COMPOSE.fullmatch(name):
            continue
        for number, line in enumerate((folder.read(name) or b"").decode("utf-8", "replace").splitlines(), start=1):
            if (match := IMAGE.match(line)) and match[1] in IMAGES:
                call = f'tcp("127.0.0.1:{IMAGES[match[1]]}")'
                yield Proposal(match[1], call, f"{name}:{number} runs the image {match[1]}")


def _of_mcp(folder: Folder) -> Iterator[Proposal]:
    for file in MCP_FILES:
        servers = _document(folder, file).get("mcpServers")
        for name, server in servers.items() if isinstance(servers, dict) else ():
            if not isinstance(server, dict) or not WORD.fullmatch(str(name)):
                continue
            label = re.sub(r"\W+", "_", str(name)).strip("_").lower()
            if label and (call := _server(server)):
                yield Proposal(f"mcp_{label}", f"mcp_server({call})", f"{file} names the server")


def _server(server: Mapping[str, Any]) -> str:
    """How an MCP server is reached, as it is written in Python; empty where that could show a secret."""
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


def _of_graphs(graph: Mapping[str, Any]) -> Iterator[Proposal]:
    graphs = graph.get("graphs")
    for name, target in graphs.items() if isinstance(graphs, dict) else ():
        path = target.partition(":")[0].removeprefix("./") if isinstance(target, str) else ""
        label = re.sub(r"\W+", "_", str(name)).strip("_").lower()
        if label and path.endswith(".py") and WORD.fullmatch(path):
            yield Proposal(f"graph_{label}", f"file({json.dumps(path)})", "langgraph.json names the graph")


def _document(folder: Folder, name: str) -> Mapping[str, Any]:
    try:
        found = json.loads(folder.read(name) or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
