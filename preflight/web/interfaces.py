"""What kind of application an object is: told from the arguments that it takes.

Frameworks, decorators and wrappers make applications of every type:

    (scope, receive, send)      an application (ASGI 3)
    (scope)                     an application of ASGI 2, if it is not a coroutine function
    ()                          a factory: called once, awaited if need be; what it returns is one of the two above
    (environ, start_response)   WSGI: refused, as is everything else
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any, Literal

Interface = Literal["asgi3", "asgi2"]
Use = Literal["asgi3", "asgi2", "factory", "either"]
"""How to use an object that was named: serve it as this interface, or call it to make the application.

"either": it takes any arguments, and only a call tells.
"""

CALL_IT = "call it, and guard what it returns"
NEEDS_ASGI3 = "wrap it: asgiref.compatibility.guarantee_single_callable(app)"
NEEDED = "name an ASGI application, or a function without parameters that makes one"
WITHOUT_ARGUMENTS = "give these parameters defaults, or name a function without parameters that makes the application"
COMMAND_LINE = "a command line"
NO_SERVERS = {
    "click": (COMMAND_LINE, NEEDED),
    "typer": (COMMAND_LINE, NEEDED),
    "gradio.blocks": ("a page of Gradio", 'mount it: app = gradio.mount_gradio_app(FastAPI(), page, path="/")'),
}
"""What takes any arguments, and is no application: packages or modules, what their objects are, and what to do."""
WRAPPED = "wrap it: asgi = a2wsgi.WSGIMiddleware(app), and serve asgi instead (package a2wsgi)"
COROUTINE = "make it a coroutine function: async def"


class CannotBeServed(Exception):
    """The application imports and cannot be served: a whole sentence in one line, and what to do about it."""

    def __init__(self, reason: str, fix: str) -> None:
        super().__init__(reason)
        self.fix = fix


def must_be_asgi3(candidate: Any, subject: str) -> None:
    """Raise CannotBeServed, with ``subject`` in its message, for what is certainly no ASGI 3 application."""
    use = use_of(candidate, subject)
    if use == "factory":
        raise CannotBeServed(f"{subject} is not an ASGI application: it takes no arguments", CALL_IT)
    if use == "asgi2":
        raise CannotBeServed(f"{subject} is an application of ASGI 2, called with (scope)", NEEDS_ASGI3)


def use_of(candidate: Any, subject: str) -> Use:
    """How to use the object that is called ``subject`` in messages. Raises CannotBeServed."""
    if not callable(candidate):
        kind = "None" if candidate is None else f"of type {type(candidate).__name__}"
        raise CannotBeServed(f"{subject} is not an ASGI application: it cannot be called (it is {kind})", NEEDED)
    for base in type(candidate).__mro__:
        for module in (str(base.__module__), str(base.__module__).partition(".")[0]):
            if module in NO_SERVERS:
                what, fix = NO_SERVERS[module]
                raise CannotBeServed(f"{subject} is not an ASGI application: it is {what} (of {module})", fix)
    signature = _signature(candidate)
    if signature is None:  # written in C: classes are made, everything else is taken at its word
        return "factory" if inspect.isclass(candidate) else "asgi3"
    if inspect.isclass(candidate) and (use := _use_of_class(candidate, signature, subject)) is not None:
        return use
    takes, required = functools.partial(_takes, signature), _required(signature)
    shown = ", ".join(required)
    code, is_coroutine = _code(candidate), _is_coroutine_function(candidate)
    yields = code is not None and bool(code.co_flags & (inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR))
    if yields and not is_coroutine:
        raise CannotBeServed(f"{subject} is not an ASGI application: it is a generator function (it yields)", NEEDED)
    if takes(0):
        return _use_of_either(candidate, signature) if takes(3) else "factory"
    wsgi = list(signature.parameters)[:2] == ["environ", "start_response"]
    if wsgi or (takes(2) and not takes(3) and not is_coroutine):
        raise CannotBeServed(
            f"{subject} is a WSGI application, called with ({shown}): this server needs an ASGI application,"
            " called with (scope, receive, send)",
            WRAPPED,
        )
    if takes(3) or (takes(1) and required == ["scope"] and not is_coroutine):
        if not is_coroutine and code is not None and _returns_nothing(code):
            raise CannotBeServed(
                f"{subject} is not an ASGI application: it is not a coroutine function, and returns nothing that can be"
                " awaited",
                COROUTINE,
            )
        return "asgi3" if takes(3) else "asgi2"
    raise CannotBeServed(
        f"{subject} cannot be called: it needs arguments ({shown}); an application is called with"
        " (scope, receive, send), a factory with none",
        WITHOUT_ARGUMENTS,
    )


def _use_of_class(candidate: type, signature: inspect.Signature, subject: str) -> Use | None:
    """How to use a class; None if a call may make anything, so that its arguments decide. Raises CannotBeServed."""
    if _takes(signature, 3) and hasattr(candidate, "__await__"):
        return "asgi3"
    if _takes(signature, 0):
        return "factory"
    if _takes(signature, 3) and not _makes_anything(candidate):
        raise CannotBeServed(
            f"{subject} is not an ASGI application: it is a class called with ({', '.join(_required(signature))}),"
            " and its instances cannot be awaited",
            NEEDED,
        )
    return None


def _use_of_either(candidate: Any, signature: inspect.Signature) -> Use:
    """How to use an object that takes an application's arguments, and no arguments as well."""
    if next(iter(signature.parameters)) == "scope" or not isinstance(
        candidate, FunctionType | BuiltinFunctionType | MethodType | functools.partial
    ):
        return "asgi3"
    return "either" if _takes_any_number(signature) else "factory"


def _required(signature: inspect.Signature) -> list[str]:
    """The names of the arguments that a call cannot do without."""
    return [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]


def _makes_anything(candidate: type) -> bool:
    """Whether a call of a class need not make an instance of it: the class, or its own class, says what it makes."""
    made_by: tuple[object, object] = (candidate.__new__, type(candidate).__call__)
    return made_by != (object.__new__, type.__call__)


def _signature(candidate: Any) -> inspect.Signature | None:
    """The arguments that an object can be called with; None if nobody can tell."""
    options: dict[str, Any] = {}
    if sys.version_info >= (3, 14):
        from annotationlib import Format

        # Annotations may name what is imported for type checkers only; this Python evaluates them when it is asked.
        options["annotation_format"] = Format.FORWARDREF
    own = None
    with contextlib.suppress(ValueError, TypeError):
        own = inspect.signature(candidate, follow_wrapped=False, **options)
    if own is not None and not _takes_any_number(own):
        return own
    # A decorator's wrapper, which takes whatever it gets, or functools.cache's, which is written in C: the wrapped
    # function says what to call it with.
    try:
        wrapped = inspect.signature(candidate, **options)
    except (ValueError, TypeError):
        return own
    if own is None:
        return wrapped
    said = _takes(wrapped, 3) or _takes(wrapped, 0) or (_takes(wrapped, 2) and not _is_coroutine_function(candidate))
    return wrapped if said else own


def _takes(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _takes_any_number(signature: inspect.Signature) -> bool:
    return any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values())


def _called(candidate: Any) -> Any:
    """The function that runs when an object is called, as far as there is one."""
    while isinstance(candidate, functools.partial):
        candidate = candidate.func
    if isinstance(candidate, MethodType):
        return candidate.__func__
    if isinstance(candidate, FunctionType) or inspect.isclass(candidate):
        return candidate
    return getattr(type(candidate), "__call__", candidate)  # noqa: B004  # the function itself, not whether there is one


def _is_coroutine_function(candidate: Any) -> bool:
    called, code = _called(candidate), _code(candidate)
    return (
        inspect.iscoroutinefunction(candidate)
        or inspect.iscoroutinefunction(called)
        or (code is not None and bool(code.co_flags & inspect.CO_ITERABLE_COROUTINE))  # types.coroutine
    )


def _code(candidate: Any) -> CodeType | None:
    """The byte code that runs when an object is called; None if it is not written in Python, and for classes."""
    code = getattr(_called(candidate), "__code__", None)
    return code if isinstance(code, CodeType) else None


def _returns_nothing(code: CodeType) -> bool:
    """Whether every way out of a function returns None."""
    import dis  # hardly ever needed

    before = None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "RETURN_CONST" and instruction.argval is not None:
            return False
        if instruction.opname == "RETURN_VALUE" and (
            before is None or before.opname != "LOAD_CONST" or before.argval is not None
        ):
            return False
        before = instruction
    return True
