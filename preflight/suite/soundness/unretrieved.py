"""Errors that a library keeps for whoever asks for the result, or writes to a log, where nobody asks.

``pool.map(check, hosts)`` whose results are not taken raises nothing, whatever ``check`` has found. The same goes for a
task that ends before anybody awaits it, for one that a loop's end cancels before it has begun, for a callback of a
future or an event loop, for the handler of a server, and for a process whose exit code nobody looks at.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent import futures
from types import FunctionType, ModuleType
from typing import Any

from preflight.suite.soundness import hearing, unawaited

_OWNER = "_preflight_hearing"
"""The attribute of a result that has the hearing of whoever has made it."""


@functools.cache  # once is enough for a process
def begin() -> None:
    """Hear, from here on, of errors that libraries of this process keep: nothing public tells of them."""
    _own(futures.Future)
    _before(futures.Future, "set_exception", _keep)
    # The last: how asyncio takes the result of a thread from Python 3.15 on.
    _asks(futures.Future, "result", "exception", *({"_get_snapshot"} & vars(futures.Future).keys()))
    # An error in a callback of a future is written to the log, and so is each one that an event loop has to handle.
    for name in ("asyncio", "concurrent.futures"):
        logging.getLogger(name).addFilter(_hear_log)
    _before(threading.Thread, "start", _hear_imported)  # a pool starts threads before it is given anything
    sys.meta_path.insert(0, _Finder())
    _hear_imported()


def _hear_log(record: logging.LogRecord) -> bool:
    if record.levelno >= logging.ERROR and isinstance(record.exc_info, tuple):
        _note(record.exc_info[1])
    return True


def _hear_imported(*_: object) -> None:
    """Hear of modules that few suites import, once they are there and complete."""
    for name, (last, hear) in list(_LATER.items()):
        module = sys.modules.get(name)
        if module is not None and hasattr(module, last) and name in _LATER:
            with contextlib.suppress(KeyError):  # another thread was quicker
                del _LATER[name]
                hear(module)


class _Finder:
    """Finds nothing: whenever a module is looked for, one that came before it may be complete."""

    def find_spec(self, *_: object) -> None:
        """None, for any module."""
        _hear_imported()


def _hear_runners(runners: ModuleType) -> None:
    cancel_all = getattr(runners, "_cancel_all_tasks", None)
    if cancel_all is None:
        return  # another release of Python does it otherwise

    def cancel_all_heard(loop: Any) -> None:
        for task in runners.tasks.all_tasks(loop):
            if not task.cancelling():  # code that cancels a task does not rely on it
                unawaited.forgo(task.get_coro())
        cancel_all(loop)

    setattr(runners, "_cancel_all_tasks", cancel_all_heard)  # noqa: B010  # type checkers know no such thing


def _hear_processes(process: ModuleType) -> None:
    kind = process.BaseProcess
    started: weakref.WeakKeyDictionary[Any, hearing.Hearing] = weakref.WeakKeyDictionary()
    exit_code = kind.exitcode.fget

    def is_started(one: Any) -> None:
        runs = getattr(one, "_target", None) or one.run
        function = getattr(runs, "__func__", runs)
        owner = hearing.current()
        if owner is not None and isinstance(function, FunctionType):
            started[one] = owner
            owner.processes[one] = function

    def is_asked(one: Any) -> Any:
        owner = started.get(one)
        if owner is not None:
            owner.processes.pop(one, None)
        return exit_code(one)

    _before(kind, "start", is_started)
    kind.exitcode = property(is_asked, doc=kind.exitcode.__doc__)


def _hear_pools(pool: ModuleType) -> None:
    def is_set(result: Any, _index: int, answer: tuple[bool, Any]) -> None:
        succeeded, error = answer
        if not succeeded and not getattr(result, "_error_callback", None):
            _keep(result, error)

    _own(pool.ApplyResult)
    _own(pool.IMapIterator)
    for kind in (pool.ApplyResult, pool.MapResult, pool.IMapIterator, pool.IMapUnorderedIterator):
        _before(kind, "_set", is_set)
    _asks(pool.ApplyResult, "get", "successful")
    _asks(pool.IMapIterator, "next", "__next__")


def _hear_servers(socketserver: ModuleType) -> None:
    _before(socketserver.BaseServer, "handle_error", lambda *_: _note(sys.exc_info()[1]))


_LATER = {
    "asyncio.runners": ("_cancel_all_tasks", _hear_runners),
    "multiprocessing.pool": ("ThreadPool", _hear_pools),
    "multiprocessing.process": ("AuthenticationString", _hear_processes),
    "socketserver": ("BaseServer", _hear_servers),
}
"""What is heard of modules that nobody may have imported yet; the name is that of the last thing that is needed."""


def _note(error: BaseException | None) -> None:
    if error is not None and (one := hearing.current()):
        one.note(error)


def _own(kind: type) -> None:
    _before(kind, "__init__", lambda result, *_, **__: setattr(result, _OWNER, hearing.current()))


def _keep(result: object, exception: BaseException | None) -> None:
    owner: hearing.Hearing | None = getattr(result, _OWNER, None)
    if owner is not None and exception is not None:
        owner.kept.append(exception)


def _asks(kind: type, *names: str) -> None:
    def is_asked(result: object, *_: object, **__: object) -> None:
        owner: hearing.Hearing | None = getattr(result, _OWNER, None)
        if owner is not None:
            owner.asked = True

    for name in names:
        _before(kind, name, is_asked)


def _before(kind: type, name: str, act: Callable[..., None]) -> None:
    """Have a method of a library call ``act`` first, with the same arguments."""
    method = vars(kind)[name]

    @functools.wraps(method)
    def acted(*args: Any, **options: Any) -> Any:
        act(*args, **options)
        return method(*args, **options)

    setattr(kind, name, acted)
