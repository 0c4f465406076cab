"""The file that the setting ``log_config`` names: whether logging could be set up with it.

It is read and looked at, and not carried out: that would open the log files of a server which is running.
"""

from __future__ import annotations

import configparser
import json
import logging
import logging.handlers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KINDS = {".json": "JSON", ".yaml": "YAML", ".yml": "YAML"}
"""By the end of a file's name, as uvicorn tells them apart; everything else is an .ini file."""
VERSION = 1  # of logging.config's dictionaries; there is no other


class UnusableLogConfig(ValueError):
    """Logging could not be set up with the file: what is wrong, in one line, and what to do."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


def examine(path: Path) -> str:
    """What the file sets up, in a few words. Raises UnusableLogConfig if it would set up nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnusableLogConfig(
            f"{path} cannot be read: {error.strerror}", "set log_config to a file that can be read"
        ) from None
    except UnicodeDecodeError:
        raise UnusableLogConfig(f"{path} is not UTF-8 text", "save the file as UTF-8") from None
    kind = KINDS.get(path.suffix)
    if kind is None:
        return _ini(path, text)
    parsed = _json(path, text) if kind == "JSON" else _yaml(path, text)
    if not isinstance(parsed, dict):
        raise UnusableLogConfig(f"{path} has no mapping at its top level, which logging.config.dictConfig needs", _FIX)
    return _dictionary(path, parsed)


_FIX = "compare it with https://docs.python.org/3/library/logging.config.html"


def _json(path: Path, text: str) -> object:
    try:
        parsed: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableLogConfig(f"{path} is not valid JSON: {error}", f"correct the file {path}") from None
    return parsed


def _yaml(path: Path, text: str) -> object:
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise UnusableLogConfig(
            f"{path} is YAML, but the package that reads it is not installed", "pip install pyyaml  # or use .json"
        ) from None
    try:
        parsed: object = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise UnusableLogConfig(
            f"{path} is not valid YAML: {' '.join(str(error).split())}", f"correct the file {path}"
        ) from None
    return parsed


def _dictionary(path: Path, parsed: Mapping[str, Any]) -> str:
    if parsed.get("version") != VERSION:
        raise UnusableLogConfig(f'{path} has no "version": {VERSION}, which logging.config.dictConfig needs', _FIX)
    tables = {}
    for name in ("formatters", "filters", "handlers", "loggers"):
        table = parsed.get(name) or {}
        if not isinstance(table, dict) or not all(isinstance(one, dict) for one in table.values()):
            raise UnusableLogConfig(f'{path}: "{name}" must be a mapping of names to mappings', _FIX)
        tables[name] = table
    for name, handler in tables["handlers"].items():
        where = f"{path}: handler {name!r}"
        if "class" not in handler and "()" not in handler:
            raise UnusableLogConfig(f'{where} has no "class"', f"correct the file {path}")
        _resolves(where, handler.get("class"))
        _known(where, "formatter", [handler["formatter"]] if "formatter" in handler else [], tables["formatters"])
        _known(where, "filter", handler.get("filters", ()), tables["filters"])
        _level(where, handler)
    loggers = {**tables["loggers"], **({"root": parsed["root"]} if isinstance(parsed.get("root"), dict) else {})}
    for name, logger in loggers.items():
        where = f"{path}: logger {name!r}"
        _known(where, "handler", logger.get("handlers", ()), tables["handlers"])
        _known(where, "filter", logger.get("filters", ()), tables["filters"])
        _level(where, logger)
    return _count(len(tables["handlers"]), len(loggers))


def _known(where: str, what: str, names: object, table: Mapping[str, object]) -> None:
    if not isinstance(names, Sequence) or isinstance(names, str):
        raise UnusableLogConfig(f'{where}: "{what}s" is not a list', _FIX)
    for name in names:
        # A filter or a handler may be an object, in what a program makes; in a file it is a name.
        if not isinstance(name, str) or name not in table:
            raise UnusableLogConfig(
                f"{where} names a {what} {name!r} that the file does not define", f'define it in "{what}s"'
            )


def _resolves(where: str, name: object) -> None:
    """Refuse a handler of the standard library that does not exist; others are imported when they are used."""
    if isinstance(name, str) and name.startswith("logging."):
        module, _, attribute = name.removeprefix("logging.").rpartition(".")
        home = {"": logging, "handlers": logging.handlers}.get(module)
        if not hasattr(home, attribute):
            raise UnusableLogConfig(
                f"{where} has a class {name!r} that does not exist", f"correct the file {where.partition(': ')[0]}"
            )


def _level(where: str, table: Mapping[str, object]) -> None:
    level = table.get("level", "INFO")
    if isinstance(level, int) and not isinstance(level, bool):
        return
    if not isinstance(level, str) or level.upper() not in {*logging.getLevelNamesMapping(), "TRACE"}:
        raise UnusableLogConfig(
            f"{where} has a level {level!r} that does not exist", "use DEBUG, INFO, WARNING, ERROR or CRITICAL"
        )


def _ini(path: Path, text: str) -> str:
    parsed = configparser.ConfigParser()
    try:
        parsed.read_string(text)
        counts = {}
        for kind in ("formatters", "handlers", "loggers"):
            names = [name.strip() for name in parsed.get(kind, "keys").split(",") if name.strip()]
            for name in names:
                if not parsed.has_section(section := f"{kind[:-1]}_{name}"):
                    raise UnusableLogConfig(
                        f"{path}: [{kind}] names {name!r}, but there is no [{section}]", f"correct the file {path}"
                    )
            counts[kind] = len(names)
        if not parsed.has_section("logger_root"):
            raise UnusableLogConfig(f"{path}: there is no [logger_root], which logging.config.fileConfig needs", _FIX)
    except configparser.Error as error:
        problem = f"{path} is not an .ini file for logging.config.fileConfig: {' '.join(str(error).split())}"
        raise UnusableLogConfig(
            problem, f"correct the file {path}, or, if it contains JSON or YAML, give it the extension .json or .yaml"
        ) from None
    return _count(counts["handlers"], counts["loggers"])


def _count(handlers: int, loggers: int) -> str:
    return f"{handlers} handler{'' if handlers == 1 else 's'}, {loggers} logger{'' if loggers == 1 else 's'}"
