"""The variables of the environment that a Python file reads and has no other value for; never their values.

Known are ``os.environ`` and ``os.getenv``, python-dotenv, django-environ, environs, python-decouple, Starlette's Config
and pydantic-settings.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

from preflight.command.init.addresses import Address, address
from preflight.command.init.source import Source, argument, bodies, names_in, targets, text_of, texts_in

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
READERS = {"environ.Env", "environ.FileAwareEnv", "environs.Env", "starlette.config.Config"}
"""What makes an object that reads variables when it is called, and raises if there is none."""
SETTINGS = {"pydantic_settings.BaseSettings", "pydantic_settings.main.BaseSettings", "pydantic.BaseSettings"}
ENDS = {"sys.exit", "exit", "quit", "os._exit"}
ENV_FILE = re.compile(r"(?:\./)?((?:\.\./)*(?:[\w-]+/)*(?:\.env[\w.-]*|[\w-][\w.-]*))")
SIMPLE = re.compile(
    r"(?:str|int|float|bool|bytes|Path|SecretStr|Url|Dsn|EmailStr|list|List|dict|Dict|set|tuple|Literal)$"
)
"""Types of fields whose value is a variable's as it stands. A class of one's own may take several variables."""
ELSEWHERE = {"secrets_dir", "yaml_file", "toml_file", "json_file", "alias_generator"}
"""Other options of pydantic-settings that may say where a value comes from."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that the code reads and has no other value for."""

    name: str
    line: int
    required: bool
    """Whether the code fails without it, as far as its text shows."""
    at_import: bool = False
    any_case: bool = False
    """Whether small letters will do as well, as pydantic-settings has it."""


@dataclass(frozen=True, slots=True)
class Default:
    """A variable that the code has another value for, which is the address of something."""

    name: str
    line: int
    leads_to: Address


def variables(source: Source) -> list[Variable]:
    """What the file reads, in the order of its lines."""
    read: list[Variable] = []
    for node in source.nodes:
        if isinstance(node, ast.Subscript):
            read += _subscript(source, node)
        elif isinstance(node, ast.Call):
            read += _call(source, node, source.dotted(node.func))
    for settings in _settings_classes(source):
        read += settings.variables()
    return sorted((variable for variable in read if NAME.fullmatch(variable.name)), key=lambda variable: variable.line)


def defaults(source: Source) -> list[Default]:
    """Where variables with a default in the code lead, in the order of its lines."""
    found: list[Default] = []
    for node, dotted in source.calls():
        if dotted in ("os.getenv", "os.environ.get") or _is_reader(source, dotted):
            parent = source.parents.get(node)
            instead = parent.values[-1] if isinstance(parent, ast.BoolOp) and isinstance(parent.op, ast.Or) else None
            found += _default(_name(node), argument(node, 1, "default") or instead, node.lineno)
    for settings in _settings_classes(source):
        for name, default, line in settings.fields():
            found += _default(name, default, line)
    return sorted((one for one in found if NAME.fullmatch(one.name)), key=lambda one: one.line)


def _default(name: str | None, value: ast.expr | None, line: int) -> Iterator[Default]:
    """``"redis://..."``, and ``RedisDsn("redis://...")``."""
    if isinstance(value, ast.Call):
        value = argument(value, 0, "default")
    if name is not None and (text := text_of(value)) and (leads_to := address(text)):
        yield Default(name, line, leads_to)


def given(source: Source) -> set[str]:
    """Variables that the file gives a value itself."""
    names = [
        text_of(node.slice)
        for node in source.nodes
        if isinstance(node, ast.Subscript)
        and isinstance(node.ctx, ast.Store)
        and source.dotted(node.value) == "os.environ"
    ]
    names += [
        text_of(argument(node, 0, "key"))
        for node, dotted in source.calls()
        if dotted in ("os.environ.setdefault", "os.putenv")
    ]
    return {name for name in names if name is not None}


def env_files(source: Source) -> list[str | None]:
    """The files that the code reads variables from; None for one whose name it works out, or that is elsewhere."""
    named = [_env_file(source, node, dotted) for node, dotted in source.calls()]
    named += [one.configured.get("env_file") for one in _settings_classes(source)]
    files: list[str | None] = []
    for one in named:
        if one is None or (isinstance(one, ast.Constant) and one.value is None):
            continue
        match = ENV_FILE.fullmatch(text_of(one) or "")
        files.append(match[1] if match else None)
    return files


def _env_file(source: Source, node: ast.Call, dotted: str) -> ast.expr | None:
    if dotted in ("dotenv.load_dotenv", "dotenv.main.load_dotenv"):
        return argument(node, 0, "dotenv_path")
    if dotted == "starlette.config.Config":
        return argument(node, 0, "env_file")
    reader, _, method = dotted.partition(".")
    if method in ("read_env", "read_envfile") and source.bound.get(reader) in READERS:
        return argument(node, 0, "path", "env_file")
    return None


# The environment itself.


def _subscript(source: Source, node: ast.Subscript) -> Iterator[Variable]:
    name = text_of(node.slice)
    if name is not None and isinstance(node.ctx, ast.Load) and source.dotted(node.value) == "os.environ":
        required = not _goes_on(source, node, name)
        yield Variable(name, node.lineno, required, at_import=not source.in_function(node))


def _name(node: ast.Call) -> str | None:
    return text_of(argument(node, 0, "key", "var", "name", "option"))


def _is_reader(source: Source, dotted: str) -> bool:
    reader = dotted.partition(".")[0]
    return source.bound.get(reader) in READERS or dotted == "decouple.config" or dotted.startswith("environs.env")


def _call(source: Source, node: ast.Call, dotted: str) -> Iterator[Variable]:
    name = _name(node)
    method = dotted.partition(".")[2]
    if dotted in ("os.getenv", "os.environ.get"):
        default = argument(node, 1, "default")
        has_default = default is not None and not (isinstance(default, ast.Constant) and default.value is None)
        parent = source.parents.get(node)
        has_another = isinstance(parent, ast.BoolOp) and isinstance(parent.op, ast.Or) and parent.values[-1] is not node
        required = _is_refused(source, node)
        is_read = required or not (has_default or has_another)
    elif _is_reader(source, dotted):
        if name is None and method in ("db", "db_url") and not node.args:
            name = "DATABASE_URL"
        has_default = len(node.args) > 1 or any(one.arg in (None, "default") for one in node.keywords)
        is_read = not has_default and method not in ("read_env", "read_envfile", "prefixed")
        required = name is not None and not _goes_on(source, node, name)
    else:
        return
    if is_read and name is not None:
        yield Variable(name, node.lineno, required, at_import=not source.in_function(node))


def _goes_on(source: Source, node: ast.AST, name: str) -> bool:
    """Whether the code goes on without the variable: it catches the error, or has looked before."""
    for parent, below in source.above(node):
        if isinstance(parent, ast.Try | ast.TryStar) and below in parent.body:
            if any(_catches(source, handler) for handler in parent.handlers):
                return True
        elif isinstance(parent, ast.If | ast.IfExp) and below is not parent.test and name in texts_in(parent.test):
            return True
    return False


def _catches(source: Source, handler: ast.ExceptHandler) -> bool:
    kinds = names_in(handler.type) if handler.type is not None else {"Exception"}
    caught = not kinds.isdisjoint({"KeyError", "LookupError", "Exception", "BaseException", "ImproperlyConfigured"})
    return caught and not any(_ends(source, one) for one in handler.body)


def _is_refused(source: Source, node: ast.AST) -> bool:
    """Whether one of the next statements ends with an error where what was assigned here is empty."""
    statement = next((one for one, _ in source.above(node) if isinstance(one, ast.stmt)), None)
    if not isinstance(statement, ast.Assign | ast.AnnAssign):
        return False
    names = {*targets(statement)}
    block = next((body for body in bodies(source.parents[statement]) if statement in body), [statement])
    for one in block[block.index(statement) + 1 :]:
        if isinstance(one, ast.If) and not names.isdisjoint(names_in(one.test)):
            return any(_ends(source, inner) for inner in one.body)
    return False


def _ends(source: Source, statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(statement, ast.Raise) or (isinstance(value, ast.Call) and source.dotted(value.func) in ENDS)


# pydantic-settings.


def _settings_classes(source: Source) -> Iterator[_SettingsClass]:
    for node in source.nodes:
        if isinstance(node, ast.ClassDef) and not SETTINGS.isdisjoint(map(source.dotted, node.bases)):
            yield _SettingsClass(source, node)


class _SettingsClass:
    """A class whose fields are variables."""

    def __init__(self, source: Source, node: ast.ClassDef) -> None:
        self.source = source
        self.node = node
        self.configured: dict[str, ast.expr] = {}
        """What ``model_config = SettingsConfigDict(...)`` or ``class Config`` says."""
        for statement in node.body:
            self.configured |= _configuration(statement)

    def variables(self) -> Iterator[Variable]:
        """The variables of the fields that have no default."""
        for name, default, line in self.fields():
            if default is None:
                yield Variable(name, line, self._is_certain, at_import=False, any_case=True)

    def fields(self) -> Iterator[tuple[str, ast.expr | None, int]]:
        """The variable of each field, its default and its line."""
        prefix = text_of(self.configured["env_prefix"]) if "env_prefix" in self.configured else ""
        if prefix is None:
            return  # it is worked out
        for statement in self.node.body:
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                name, default = self._field(statement, statement.target.id, prefix)
                if name is not None:
                    yield name.upper(), default, statement.lineno

    @property
    def _is_certain(self) -> bool:
        """Whether values come from variables and the env file alone."""
        functions = [one for one in self.node.body if isinstance(one, ast.FunctionDef)]
        changes = any(
            one.name in ("settings_customise_sources", "__init__")
            # A validator of a field does not run if there is no value for it.
            or any(
                names_in(decorator) & {"model_validator", "root_validator"} and _is_before(decorator)
                for decorator in one.decorator_list
            )
            for one in functions
        )
        return len(self.node.bases) == 1 and not changes and ELSEWHERE.isdisjoint(self.configured)

    def _field(self, node: ast.AnnAssign, name: str, prefix: str) -> tuple[str | None, ast.expr | None]:
        """The variable of a field, and its default; no variable if the field's class may take several."""
        kind, value = node.annotation, node.value
        if isinstance(kind, ast.Subscript) and self.source.dotted(kind.value).endswith("Annotated"):
            parts = kind.slice.elts if isinstance(kind.slice, ast.Tuple) else [kind.slice]
            kind = parts[0]
            value = value or next((one for one in parts[1:] if isinstance(one, ast.Call)), None)
        if isinstance(kind, ast.Subscript):
            kind = kind.value
        if name.startswith("_") or not SIMPLE.search(self.source.dotted(kind).rpartition(".")[2]):
            return None, None
        if not isinstance(value, ast.Call) or not self.source.dotted(value.func).endswith("Field"):
            return prefix + name, value
        given = {one.arg: one.value for one in value.keywords}
        default = value.args[0] if value.args else given.get("default", given.get("default_factory", given.get(None)))
        if isinstance(default, ast.Constant) and default.value is ...:
            default = None
        alias = given.get("validation_alias", given.get("alias"))
        return prefix + name if alias is None else text_of(alias), default


def _is_before(decorator: ast.expr) -> bool:
    """Whether a validator is given the values before the class has them, and could add some."""
    given = {one.arg for one in decorator.keywords} if isinstance(decorator, ast.Call) else set()
    return "before" in texts_in(decorator) or "pre" in given


def _configuration(node: ast.stmt) -> dict[str, ast.expr]:
    if isinstance(node, ast.Assign | ast.AnnAssign) and targets(node) == ["model_config"]:
        if isinstance(node.value, ast.Call):
            return {keyword.arg: keyword.value for keyword in node.value.keywords if keyword.arg}
        if isinstance(node.value, ast.Dict):
            pairs = zip(node.value.keys, node.value.values, strict=True)
            return {key: value for key_node, value in pairs if (key := text_of(key_node)) is not None}
    if isinstance(node, ast.ClassDef) and node.name == "Config":
        return {
            name: statement.value
            for statement in node.body
            if isinstance(statement, ast.Assign)
            for name in targets(statement)
        }
    return {}
