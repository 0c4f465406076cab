"""Settings as they are read: pyproject.toml, env file, environment and options, each with its place in messages."""

from __future__ import annotations

import contextlib
import os
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import Field, replace
from pathlib import Path
from typing import Any

from preflight import project as projects
from preflight import registering
from preflight.project import Project
from preflight.settings import declared, envfile
from preflight.settings.fields import SettingsError, declared_by
from preflight.settings.model import ENV_FILE, ENVIRONMENT, PREFIX, PROFILE, SETTINGS, Settings
from preflight.settings.parsers import attribute, path
from preflight.settings.table import DEFAULT_ENV_FILE, DEFAULT_STATE_DIR
from preflight.text import first_line

Known = Mapping[str, Field[Any]]
"""Settings by name."""

QUOTES = ("''", '""', "``", "\u2018\u2019", "\u201c\u201d", "\u201e\u201c")
"""Pairs of quotes, including those that text processors make of them."""
REGISTERS = "settings"
"""In ``[tool.preflight]``: which dataclass declares the application's own settings, ``module:class``."""
BESIDE_PROJECT = frozenset({"uds", "log_file", "log_config", "ssl_certfile", "ssl_keyfile", "ssl_ca_certs"})
"""Paths that start where pyproject.toml is, wherever the command is typed."""
EARLY = frozenset({"env_file", "demo"})
"""Settings that cannot stand in the env file: where it is, and whether there is one."""
TCP = frozenset({"host", "port"})
"""The settings of an address that is no Unix socket's."""


def pyproject(root: Path) -> dict[str, Any]:
    """The project's pyproject.toml.

    Raises SettingsError if it is missing or is not TOML.
    """
    file = root / "pyproject.toml"
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file} is not valid TOML: {error}") from None


def load(
    place: Path | Project,
    environ: Mapping[str, str] | None = None,
    options: Mapping[str, object] | None = None,
    *,
    imports: bool = True,
) -> Settings:
    """The settings of a project; a path is that of a project whose pyproject.toml is there.

    ``options`` are the command line's, by setting name, None if one was not given. Without ``imports`` nothing of
    the project is imported: settings that its own module declares are passed over, and a project whose code may not
    run has the defaults. Raises SettingsError, whose message names file and line, variable or option.
    """
    project = place if isinstance(place, Project) else Project(place, place)
    if project.refused and imports:
        raise SettingsError(project.refused)
    root = project.root
    environ = dict(os.environ if environ is None else environ)
    options = {name: value for name, value in (options or {}).items() if value is not None}
    file = pyproject(root) if project.configured else {}
    table = _table(file)
    with _importable(project):
        own_settings = registered(root, table) if imports else {}
    unread = REGISTERS in table and not imports
    known = {**SETTINGS, **own_settings}
    chosen, sources = _of_table(root, table, known, strict=not unread)
    set_aside = _links(environ, known)
    own = {name: value for name, value in environ.items() if name not in set_aside}
    variables = _variables(own, known, "environment variable", everywhere=True, strict=not unread)
    given = {name: _parse(SETTINGS[name], value, _option(name)) for name, value in options.items()}

    # Where the env file is cannot stand in the env file; the embedded profile has none.
    early = chosen | variables | given
    demo = bool(early.get("demo", False))
    named = "env_file" in variables or "env_file" in given
    path = _at_home("env_file", early.get("env_file", DEFAULT_ENV_FILE), needed=named and not demo)
    content = envfile.left_out(root / path) if demo or project.problem else _env_file(root, path)
    late = _variables(content.values, known, str(content.path), lines=content.lines, strict=not unread)
    chosen |= late
    chosen |= variables | given
    sources |= dict.fromkeys(late, ENV_FILE) | dict.fromkeys(variables, ENVIRONMENT)
    sources |= {name: f"option {_option(name)}" for name in given}
    if given.keys() & TCP and "uds" not in given:
        # Only those of the command line: an image or a platform sets PREFLIGHT_HOST or _PORT for everybody.
        chosen.pop("uds", None)
        sources.pop("uds", None)
    if demo:
        chosen["demo"] = True
        sources["python"] = PROFILE
        chosen["python"] = _parse(
            SETTINGS["python"], _of_project(file, "requires-python") or ">=3.11", "pyproject.toml: requires-python"
        )
    if chosen.get("demo"):
        chosen["offline"] = True
    environment = {**content.values, **environ}
    for name, (value, source) in _found(project, file, environment).items():
        if name not in chosen:
            chosen[name], sources[name] = _parse(SETTINGS[name], value, source), source
    chosen["suite"] = _suite(project, chosen.get("suite"), sources, looks=imports)
    chosen["env_file"] = content.path
    for name in BESIDE_PROJECT & chosen.keys():
        chosen[name] = root / _at_home(name, chosen[name])
    chosen["state_dir"] = root / _at_home("state_dir", chosen.get("state_dir", DEFAULT_STATE_DIR))

    return Settings(
        root=root,
        folder=project.folder,
        envfile=content,
        environment=environment,
        own=tuple(environ),
        sources=sources,
        project=_of_project(file, "name"),
        declared=declared.of(file, root, chosen.get("extras", ())) if not project.problem else None,  # type: ignore[arg-type]
        set_aside=set_aside,
        secret=tuple(name for name, entry in own_settings.items() if entry.metadata["secret"]),
        application={name: chosen.pop(name, entry.default) for name, entry in own_settings.items()},
        **chosen,  # each value went through its setting's own parser
    )


def _of_table(
    root: Path, table: Mapping[str, Any], known: Known, *, strict: bool
) -> tuple[dict[str, object], dict[str, str]]:
    """The values of the table in pyproject.toml, and where each stands; ``strict``: each is the value of a setting."""
    chosen: dict[str, object] = {}
    sources: dict[str, str] = {}
    for key, value in table.items():
        if key == REGISTERS or (key not in known and not strict):
            continue
        where = _line(root, key)
        if key not in known:
            raise SettingsError(f"{where}: unknown setting {key!r} in [tool.preflight]{_nearest(key, known)}")
        if not known[key].metadata["anywhere"]:
            raise SettingsError(f"{where}: {key} can be set in the environment only: {PREFIX}{key.upper()}")
        if known[key].metadata["secret"]:
            raise SettingsError(f"{where}: {key} is a secret: set {PREFIX}{key.upper()} in the env file instead")
        chosen[key] = _parse(known[key], value, f"{where}: {key}")
        sources[key] = where
    return chosen, sources


def _env_file(root: Path, path: Path) -> envfile.EnvFile:
    if _homeless(path):
        problem = f"{path} cannot be found: the home folder is not known here"
        return envfile.EnvFile(path, problem=problem, exists=False)
    return envfile.read(root / path)


def _found(project: Project, file: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """What a project tells other tools about itself, by the setting that it is about, and where."""
    found = {}
    if python := _of_project(file, "requires-python"):
        found["python"] = (python, "pyproject.toml: requires-python")
    if not project.problem and (application := projects.application(project, file, environment)):
        found["app"] = application
    return found


def _of_project(file: Mapping[str, Any], key: str) -> str:
    """What pyproject.toml has of this key in ``[project]``; empty if it has none, or no text."""
    table = file.get("project")
    text = table.get(key) if isinstance(table, dict) else None
    return text if isinstance(text, str) else ""


def _suite(project: Project, names: object, sources: Mapping[str, str], *, looks: bool) -> tuple[str, ...]:
    """The parts of the suite; ``looks``: look for them, and raise SettingsError if one is not there."""
    suite = tuple(names) if isinstance(names, tuple) and names else tuple(projects.default_suite(project))
    where = f"{sources.get('suite', 'pyproject.toml')}: suite"
    if not looks:
        return suite
    if projects.OURS not in suite:
        raise SettingsError(f"{where} must name {projects.OURS}: no server starts without its requirements")
    try:
        scopes = projects.scopes(project.root, suite)
    except LookupError as error:
        raise SettingsError(f"{where}: {error.args[0]}") from None
    if problem := projects.of_others(project.root, scopes):
        raise SettingsError(problem)
    return suite


@contextlib.contextmanager
def _importable(project: Project) -> Iterator[None]:
    """Let the module with the project's own settings be found, and only as long as it is needed."""
    if project.root == projects.CHECKOUT or str(project.folder) in sys.path:
        yield
        return
    sys.path.insert(0, str(project.folder))
    try:
        yield
    finally:
        sys.path.remove(str(project.folder))


def _table(project: Mapping[str, Any]) -> dict[str, Any]:
    tool = project.get("tool", {})
    table = tool.get("preflight", {}) if isinstance(tool, dict) else None
    if not isinstance(table, dict):
        raise SettingsError("pyproject.toml: [tool.preflight] must be a table")
    return table


def registered(root: Path, table: Mapping[str, Any]) -> Known:
    """The application's own settings, by name: the fields of the dataclass that the table names, if it names one.

    Raises SettingsError if they cannot be had, or one of them has a name of ours.
    """
    if REGISTERS not in table:
        return {}
    where = f"{_line(root, REGISTERS)}: {REGISTERS}"
    try:
        name = attribute(table[REGISTERS])
    except ValueError as error:
        raise SettingsError(f"{where} {error}") from None
    try:
        kind = registering.load(name)
        found = {entry.name: entry for entry in declared_by(kind)}
    except registering.NotLoaded as error:
        raise SettingsError(f"{where}: {error}") from None
    except Exception as error:  # noqa: BLE001  # an object that is made when it is asked may raise what it likes
        why = "" if isinstance(error, TypeError) else f" ({type(error).__name__}: {first_line(str(error))})"
        raise SettingsError(f"{where}: {name} is not a dataclass of settings{why}") from None
    if taken := found.keys() & SETTINGS.keys():
        raise SettingsError(f"{where}: {name} declares {min(taken)}, which is a setting of the preflight")
    return found


def _links(environ: Mapping[str, str], known: Known) -> tuple[str, ...]:
    """The variables of service links in an environment."""
    if not any(name.startswith(PREFIX) and ("_PORT" in name or name.endswith("_NAME")) for name in environ):
        return ()
    from preflight.settings import servicelinks  # only where something looks like them

    return tuple(servicelinks.members(environ, PREFIX, {PREFIX + name.upper() for name in known}))


def reread(running: Settings, options: Mapping[str, object]) -> Settings:
    """The settings of a re-run: those that ``running``, the instance, has, with the env file as it is by now.

    What else was changed since then counts from the next start on. Raises SettingsError if that start would.
    """
    given = {name: value for name, value in running.environment.items() if name in running.own}
    fresh = load(projects.at(running.root, running.folder), given, options)
    broke = running.envfile.problem is None and fresh.envfile.problem is not None
    return replace(running, envfile=fresh.envfile, envfile_broke=broke, next_start=_differences(running, fresh))


def _differences(running: Settings, fresh: Settings) -> tuple[str, ...]:
    """What would differ in a start now, setting by setting, each with its source; of a secret only its name."""
    found = []
    project = projects.at(fresh.root, fresh.folder)
    own = registered(fresh.root, _table(pyproject(fresh.root))) if project.configured else {}
    for name, entry in {**SETTINGS, **own}.items():
        if name not in SETTINGS and name not in running.application:
            continue  # the application's module declares it only since the instance has read it
        if fresh.value(name) != running.value(name):
            shown = "" if entry.metadata["secret"] else f" {fresh.value(name)}"
            found.append(f"{name}{shown} ({fresh.sources.get(name, 'the default')})")
    if fresh.declared != running.declared:
        found.append(f"dependencies ({(fresh.declared or running.declared or {}).get('source')})")
    return tuple(found)


def _at_home(name: str, value: object, *, needed: bool = True) -> Path:
    """The path with ``~`` expanded; a process without a home folder (a container's made-up user) must name one."""
    chosen = path(str(value))
    if needed and _homeless(chosen):
        raise SettingsError(f"{name}: the home folder of {chosen} is not known here; set {PREFIX}{name.upper()}")
    return chosen


def _homeless(path: Path) -> bool:
    """Whether a path begins in a home folder that is not known."""
    return bool(path.parts) and path.parts[0].startswith("~")


def _variables(
    environ: Mapping[str, str],
    known: Known,
    source: str,
    *,
    lines: Mapping[str, int] | None = None,
    everywhere: bool = False,
    strict: bool = True,
) -> dict[str, object]:
    """The settings among variables; unless ``strict``, a name that is none of ours may be one of the project's own."""
    found: dict[str, object] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX):
            continue
        name = variable.removeprefix(PREFIX).lower()
        where = f"{source}:{lines[variable]}: {variable}" if lines else f"{source} {variable}"
        if name not in known and not strict:
            continue
        if name not in known:
            raise SettingsError(f"{where}: no such setting{_nearest(name, known, PREFIX, everywhere=everywhere)}")
        if not everywhere and not known[name].metadata["anywhere"]:
            raise SettingsError(f"{where} can be set in the environment only")
        if not everywhere and name in EARLY:
            raise SettingsError(f"{where} cannot be set in the env file")
        if quoted(value):
            kept = "" if lines else ", as `docker --env-file` keeps them"
            raise SettingsError(f"{where} has quotes around its value{kept}: leave them out")
        try:
            found[name] = _parse(known[name], value, where)
        except SettingsError as error:
            if value.strip():
                raise
            raise SettingsError(
                f"{error}, and is empty: set it, or {'leave it out' if lines else 'unset it'}"
            ) from None
    return found


def quoted(value: str) -> bool:
    """Whether a variable's value has quotes around it, which a shell or an env file would have taken away."""
    plain = value.strip()
    return len(plain) > 1 and plain[0] + plain[-1] in QUOTES


def _parse(entry: Field[Any], value: object, where: str) -> object:
    try:
        parsed: object = entry.metadata["parse"](value)
    except ValueError as error:
        raise SettingsError(f"{where} {error}") from None
    return parsed


def _option(name: str) -> str:
    return "--no-cleanup" if name == "port_cleanup" else f"--{name.replace('_', '-')}"


def _nearest(name: str, known: Known, prefix: str = "", *, everywhere: bool = False) -> str:
    """The setting that an unknown name may have meant, and where that is set if not here.

    ``prefix``: it was a variable, of the environment (``everywhere``) or of the env file; else in pyproject.toml.
    """
    import difflib  # only when something is wrong

    spelled = name.lower().replace("-", "_").removeprefix(PREFIX.lower())
    close = difflib.get_close_matches(spelled, known, n=1)
    if not close:
        return ""
    variable = PREFIX + close[0].upper()
    if not everywhere and not known[close[0]].metadata["anywhere"]:
        return f"; did you mean {variable!r}, which can be set in the environment only?"
    if prefix and not everywhere and close[0] in EARLY:
        return f"; did you mean {variable!r}, which cannot be set in the env file?"
    if not prefix and known[close[0]].metadata["secret"]:
        return f"; did you mean {variable!r}? It is a secret, so set it in the env file"
    return f"; did you mean {variable if prefix else close[0]!r}?"


def _line(root: Path, key: str) -> str:
    """``pyproject.toml:LINE`` of a key of our table; tomllib gives no positions."""
    inside = False
    lines = (root / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        if line.strip().startswith("["):
            inside = line.split("#")[0].strip() == "[tool.preflight]"
        elif inside and line.lstrip(" \t\"'").removeprefix(key).lstrip(" \t\"'")[:1] in ("=", "."):
            return f"pyproject.toml:{number}"
    return "pyproject.toml"
