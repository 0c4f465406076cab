"""The text of the files that are written into a project. Everything from the project is a plain name here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from preflight.command.init import requirement
from preflight.command.init.proposals import Proposal
from preflight.command.init.requirement import Requirement
from preflight.command.init.survey import Survey
from preflight.project import OURS

DISTRIBUTION = "pytest-preflight[web]"
SUITE = "preflight_suite"
STATE = "/var/lib/preflight"
GRACE = 30  # seconds that a service has to stop in: more than drain_delay and graceful_timeout together
PYTHON = "3.13"
CONFTEST = '''\
"""These files are requirements of the server: only `preflight` runs them.

Plain pytest finds nothing here, so a project's own tests do not change. A run that should check the requirements, but
has lost the plugin, finds nothing either: it ends with exit code 5 instead of running them in a way of its own.
"""

import pytest

RUN = "preflight-suite-run"  # the plugin that is there while the suite runs


class NotAsked(pytest.File):
    """A file that is named on the command line, and contains nothing for this run."""

    def collect(self):
        return []


def pytest_ignore_collect(collection_path, config):
    return None if config.pluginmanager.hasplugin(RUN) else True


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makemodule(module_path, parent):
    if parent.config.pluginmanager.hasplugin(RUN):
        return None
    return NotAsked.from_parent(parent, path=module_path)
'''


def quoted(text: str) -> str:
    """A text for Python and TOML alike."""
    return json.dumps(text, ensure_ascii=False)


def table(seen: Survey) -> str:
    """``[tool.preflight]``, with what can be said of the project and how the rest is said."""
    lines = [
        "# What this project serves, and what has to hold before it may serve: `preflight --check-only`",
        "# checks, `preflight` checks and then serves. The env file, variables (PREFLIGHT_PORT=8002) and",
        "# options (--port 8002) override the values here.",
        "[tool.preflight]",
    ]
    if seen.application is None:
        lines += [
            "# No ASGI application was found in the code. Name it, or a function that makes it:",
            '# app = "my_package.main:app"',
        ]
    else:
        prefix = "# " if seen.application.told else ""
        lines.append(f"{prefix}app = {quoted(seen.application.app)}  # {seen.application.why}")
        lines += [f"# Also found: {other}" for other in seen.application.others]
    lines += [
        "# The requirements that every server has, and the project's own. Everything named here has to exist.",
        f'suite = ["preflight.requirements", "{SUITE}"]',
    ]
    if seen.env_file == ".env":
        lines.append('# env_file = ".env"  # variables and keys, for the application as well')
    else:
        prefix = "" if seen.env_file_is_there else "# "
        lines.append(f"{prefix}env_file = {quoted(seen.env_file)}  # the code reads its variables from there")
    if not seen.requires_python:
        lines.append('# python = ">=3.12"  # the default is requires-python in [project]')
    lines += ['# host = "127.0.0.1"', "# port = 8002"]
    return "\n".join(lines) + "\n"


def suite(chosen: Requirement, mentioned: Iterable[str], proposed: Iterable[Proposal]) -> str:
    """preflight_suite/test_project.py."""
    standard = [line for line in chosen.imports if "preflight" not in line]
    own = [line for line in chosen.imports if "preflight" in line]
    lines = ['"""What this project needs before it may serve: each requirement is a pytest test.', ""]
    lines += [
        "The marker has severity (critical blocks a start, warning does not), title and fix,",
        "the docstring says what holds, and the assertion's message what was found instead.",
        "`preflight --init` wrote this file once, and will not touch it again.",
        '"""',
        "",
    ]
    lines += [*standard, ""] if standard else []
    lines += ["import pytest", ""]
    lines += [*own, ""] if own else []
    lines += [f"# {chosen.because}."]
    rest = list(mentioned)
    if rest:
        lines.append("# The code also reads:")
        lines += [f"#   {name}" for name in rest]
    lines += [
        f"@pytest.mark.{chosen.severity}(",
        f"    {quoted(chosen.title)},",
        f"    fix={quoted(chosen.fix)},",
        ")",
        f"def {chosen.function}({', '.join(chosen.parameters)}) -> None:",
        f'    """{chosen.holds}"""',
        *(f"    {line}" for line in chosen.body),
    ]
    # Two blank lines before what begins a block of its own.
    first = lines.index(f"# {chosen.because}.")
    lines.insert(first, "")
    if ready := list(proposed):
        lines += [
            "",
            "",
            "# Ready-made requirements for what this project's files name. Uncomment those that must hold before the",
            '# server may start; severity="warning" reports one without blocking.',
            "#",
            f"# from {OURS} import ready",
            "#",
            *(f"# {proposal.line}" for proposal in ready),
        ]
    return "\n".join(lines) + "\n"


# What a project is installed and started with.


def _install(seen: Survey) -> tuple[list[str], str]:
    """The commands that install the project and the preflight, and what the command begins with then."""
    match seen.installs:
        case "uv":
            return ["pip install uv", f"uv sync --locked && uv pip install '{DISTRIBUTION}'"], "uv run --no-sync "
        case "poetry":
            return ["pip install poetry", f"poetry install && poetry run pip install '{DISTRIBUTION}'"], "poetry run "
        case "requirements":
            return [f"pip install -r requirements.txt '{DISTRIBUTION}'"], ""
        case "package":
            return [f"pip install . '{DISTRIBUTION}'"], ""
        case "list":
            return ["pip install uv", f"uv pip install --system -r pyproject.toml '{DISTRIBUTION}'"], ""
    return [f"pip install '{DISTRIBUTION}'  # and what the project needs"], ""


def github(seen: Survey) -> str:
    """.github/workflows/preflight.yml: the requirements, asked in CI, with what blocks at its line."""
    commands, prefix = _install(seen)
    version = "python-version-file: pyproject.toml" if seen.requires_python else f'python-version: "{PYTHON}"'
    lines = [
        "# Checks every requirement of the server, and starts and stops nothing. Exit code 0: a start could go ahead.",
        "name: preflight",
        "on: [push, pull_request]",
        "permissions:",
        "  contents: read",
        "jobs:",
        "  preflight:",
        "    runs-on: ubuntu-latest",
    ]
    variables = requirement.needed(seen)
    if variables:
        lines += ["    # Variables that the code needs; the repository's settings have their values.", "    env:"]
        lines += [
            f"      {name}: ${{{{ {'secrets' if requirement.secret(name) else 'vars'}.{name} }}}}" for name in variables
        ]
    lines += [
        "    steps:",
        "      - uses: actions/checkout@v4",
        "      - uses: actions/setup-python@v5",
        "        with:",
        f"          {version}",
        *(f"      - run: {command}" for command in commands),
        f"      - run: {prefix}preflight --check-only --format github",
    ]
    return "\n".join(lines) + "\n"


DOCKERIGNORE = """\
# Everybody who has the image can read its files: keep out keys, and files that the build makes itself.
.env
.env.*
.git
.preflight
.venv
venv
**/__pycache__
"""


def dockerfile(seen: Survey) -> str:
    """A Dockerfile for a project that has none."""
    lines = [
        f"FROM python:{PYTHON}-slim",
        "WORKDIR /app",
        "COPY . .",
        *(f"RUN {command}" for command in _install(seen)[0]),
        "",
        *lines_for_docker(seen),
    ]
    return "\n".join(lines) + "\n"


def lines_for_docker(seen: Survey) -> list[str]:
    """The lines of a Dockerfile that start the server through the preflight."""
    prefix = [word for word in _install(seen)[1].split(" ") if word]
    return [
        "# The reports are this user's alone; the project belongs to root, so the server cannot change it.",
        f"RUN useradd --system --create-home server && install -d -o server -m 0700 {STATE}",
        f"ENV PREFLIGHT_STATE_DIR={STATE}",
        "USER server",
        "# Clients outside a container reach only 0.0.0.0. People and programs log in with -e PREFLIGHT_TOKEN=...;",
        "# without it, each start prints a link that logs in one person.",
        "ENV PREFLIGHT_HOST=0.0.0.0",
        "EXPOSE 8002",
        "# As a list of words, the command is the container's first process and gets the signal of `docker stop`.",
        f"CMD {json.dumps([*prefix, 'preflight'])}",
    ]


def unit(folder: Path, command: Path, user: str, name: str) -> str:
    """A unit of systemd for the project where it is: ``folder`` is where the command is typed."""
    return f"""\
# Serves {name} from its current folder on this machine: adapt paths and user on another machine.
#   sudo cp {_shell(folder)}/deploy/{name}.service /etc/systemd/system/
#   sudo systemctl daemon-reload && sudo systemctl enable --now {name}
[Unit]
Description={name}, guarded by preflight
Wants=network-online.target
After=network-online.target
# The cause of a blocked start may be gone an hour later, so systemd tries again without limit.
StartLimitIntervalSec=0

[Service]
# The service has started when the server answers; until then, a start asks systemd for more time.
Type=notify
User={user}
WorkingDirectory={_unit(str(folder))}
ExecStart={_unit_word(str(command))}
# Reports are in /var/lib/{name}, and the runtime folder is /run/{name}.
StateDirectory={name}
StateDirectoryMode=0700
RuntimeDirectory={name}
RuntimeDirectoryMode=0700
Environment=PREFLIGHT_STATE_DIR=%S/{name} XDG_RUNTIME_DIR=%t/{name}
# The launcher notices that systemd has started it, and leaves restarts to systemd.
Restart=on-failure
RestartSec=5
# Another start does not correct a wrong setting.
RestartPreventExitStatus=2
# More than the setting heartbeat (60 s), so that the launcher's banner says where a worker hangs.
WatchdogSec=90
# SIGTERM goes to the launcher, which drains; systemd kills the rest after {GRACE} s.
KillMode=mixed
TimeoutStopSec={GRACE}

[Install]
WantedBy=multi-user.target
"""


def _unit(text: str) -> str:
    """The text for systemd, which replaces what begins with a percent sign."""
    return text.replace("%", "%%")


def _unit_word(text: str) -> str:
    """One word of ``ExecStart``."""
    escaped = _unit(text).replace("$", "$$")
    if not any(letter in escaped for letter in " \t\"'\\;"):
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _shell(folder: Path) -> str:
    import shlex

    return shlex.quote(str(folder))
