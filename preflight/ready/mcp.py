"""``ready.mcp_server``: an MCP server starts or can be reached, and has the tools that the agent counts on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Unpack

from preflight import bodies
from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, imported, literal, requirement, unknown, without_query
from preflight.making import url as parsed
from preflight.processes import programs
from preflight.ready.machine import found
from preflight.suite.probes import asking, clients, egress
from preflight.text import foreign

# Options that keep a runner from downloading the server, and options that make it download without asking.
NOTHING_NEW = {"npx": ["--no-install"], "bunx": ["--no-install"], "uvx": ["--offline"]}
ASKS_NOBODY = {"npx": ("-y", "--yes")}
VALUED = (["-p"], ["--package"])
"""Options of npx behind which a value stands."""
OFFLINE = {"UV_OFFLINE": "1", "npm_config_yes": "false"}
ALWAYS_DOWNLOAD = {("pnpm", "dlx"), ("yarn", "dlx"), ("pipx", "run")}


class McpAnswer(NamedTuple):
    """The server's answer about itself."""

    server: str
    version: str
    tools: list[str]


def mcp_server(
    server: str | Sequence[str],
    *,
    tools: Collection[str] = (),
    env: Collection[str] = (),
    key: str = "",
    **instead: Unpack[Instead],
) -> Callable[..., None]:
    """The MCP server answers ``initialize``, and has these ``tools``.

    :param server: the command that starts it and speaks on standard input and output (a list of words), a URL, or the
        name of the variable that has the URL.
    :param env: names of variables of the application's environment that the command gets, beside the usual ones.
    :param key: the name of the variable with the token that a server behind a URL wants.
    """
    command = [] if isinstance(server, str) else [literal(word) for word in server]
    given = literal(server) if isinstance(server, str) and "://" in server else ""
    name = without_query(str(server))
    if command:
        from preflight.redaction import arguments  # 3 ms, and a server behind a URL needs none of it

        name = arguments.shown(command)

    async def probe(ask: Ask) -> McpAnswer:
        library = imported("mcp", "mcp")
        if command:
            return await _asked(library, _started(library, command, ask, env))
        named = replace(ask, value=given, variable=name) if given else ask
        parsed(named, ["http", "https"], "the URL of an MCP server")
        return await _asked(library, _reached(named, ask.environment.get(key, "") if key else ""))

    def judge(answer: McpAnswer, details: Details) -> None:
        details.update(server=answer.server, version=answer.version or None, tools=answer.tools)
        missing = sorted(set(tools) - set(answer.tools))
        assert not missing, (
            f"{answer.server} has no tool {', '.join(missing)}; it has {', '.join(answer.tools) or 'none'}"
        )
        count = len(answer.tools)
        details.summary = f"{answer.server} {answer.version}, {count} tool{'' if count == 1 else 's'}"

    return requirement(
        probe,
        judge,
        variable="" if command or given else name,
        title=f"MCP server {name}"[:100],
        doc=f"The MCP server {name} answers, and has the tools that the agent uses.",
        fix="start the server by hand, and look at what it prints",
        needs=[] if command else ["network"],
        timeout=20.0,
        instead=instead,
    )


def _started(library: Any, command: list[str], ask: Ask, env: Collection[str]) -> Any:
    """How to start the server. Raises Failure if its program is not there, or ends as unknown if it downloads."""
    program, *words = command
    try:
        path = found(program, ask)
    except Failure as failure:
        raise Failure(f"{failure}: the server cannot be started", f"install {program}") from None
    runner = os.path.basename(program)
    if (runner, words[0] if words else "") in ALWAYS_DOWNLOAD:
        unknown(f"{runner} {words[0]} downloads what it runs: install the server, and name its command")
    if runner in NOTHING_NEW:
        # The runner's own options end at the first word that is not an option: the rest belongs to the server.
        own = (
            n for n, word in enumerate(words) if word == "--" or (word[:1] != "-" and words[n - 1 : n] not in VALUED)
        )
        end = next(own, len(words))
        options = [word for word in words[:end] if word not in ASKS_NOBODY.get(runner, ())]
        words = [*(one for one in NOTHING_NEW[runner] if one not in options), *options, *words[end:]]
    if runner in ("docker", "podman") and words[:1] == ["run"]:
        words = ["run", "--pull=never", *words[1:]]
    given = {name: ask.environment[name] for name in ("PATH", *env) if name in ask.environment}
    environ = programs.marked({**given, **OFFLINE})
    return library.StdioServerParameters(command=path, args=words, env=environ, cwd=ask.root)


@contextlib.asynccontextmanager
async def _reached(ask: Ask, token: str) -> AsyncIterator[Any]:
    """The way to a server behind a URL, with the proxies and certificates of the application."""
    import httpx2
    from mcp.client.streamable_http import streamable_http_client

    try:
        routes, context = egress.routes(ask.environment), clients.certificates(ask.environment)
    except egress.Fault as fault:
        raise Failure(str(fault), fault.fix) from None
    mounts = {
        pattern: httpx2.AsyncHTTPTransport(proxy=httpx2.Proxy(proxy.url), verify=context) if proxy else None
        for pattern, proxy in routes.items()
    }
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with (
        httpx2.AsyncClient(
            mounts=mounts,
            verify=context,
            trust_env=False,
            timeout=ask.timeout,
            headers=headers,
            follow_redirects=False,
            event_hooks={"response": [bodies.bounded(asking.LONGEST_BODY)]},
        ) as http,
        streamable_http_client(ask.value, http_client=http) as streams,
    ):
        yield streams


async def _asked(library: Any, target: Any) -> McpAnswer:
    """Initialize, list the tools, and disconnect. Other output of the server is ignored."""
    with open(os.devnull, "w") as nothing:  # noqa: ASYNC230  # opening the null device waits for nothing
        if isinstance(target, library.StdioServerParameters):
            from mcp.client.stdio import stdio_client

            target = stdio_client(target, errlog=nothing)
        try:
            async with library.Client(target) as client:
                tools, cursor = [], None
                for _ in range(PAGES):
                    page = await client.list_tools(cursor=cursor)
                    tools += [foreign(tool.name) for tool in page.tools]
                    cursor = page.next_cursor
                    if not cursor:
                        break
                about = client.server_info
                return McpAnswer(foreign(about.name), foreign(str(about.version or "")), sorted(tools))
        except (TimeoutError, Failure):
            raise
        except Exception as error:  # noqa: BLE001  # the library raises groups of whatever went wrong
            raise Failure(f"it does not answer as an MCP server: {_why(error)}") from None


PAGES = 50  # pages of tools that are asked for: a list may have no end


def _why(error: BaseException) -> str:
    """The first error, by its type: its words may hold what the server has printed."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        wants = ", it requires a valid token" if status in (401, 403) else ""
        return f"HTTP {status}{wants}"
    if isinstance(error, bodies.TooLong):
        return str(error)
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__
