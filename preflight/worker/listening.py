"""Keep the application from listening before the verdict.

An application that listens while it is imported (``uvicorn.run(app)`` at the end of its module) would answer requests
that no requirement has let in. From before its import until it is told to serve:

1. what starts to listen gets :class:`Listens`, which names the place in the project;
2. ``on_attempt`` is called at once: the application may catch that, try again for ever, or do so in a thread;
3. what listens all the same (native code) is seen within a quarter of a second, and ends the process.

Three doors lead there: ``socket.socket.listen``, which asyncio, threads and every server in pure Python use; uvloop,
which binds in Python and listens in C; and server processes, which get a socket that is bound here. They are closed for
that time alone, and are as before afterwards.

What nobody else could know of is let through: a socket on loopback whose port the system chose, as for a pair of
sockets, and what multiprocessing needs itself. Child processes are not seen.
"""

from __future__ import annotations

import functools
import os
import socket
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from preflight.processes.worker import LISTENING_FIX

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

LOOK = 0.25  # seconds between two looks for sockets that listen all the same
LEAVE = 2.0  # seconds that an application which was refused has to end its import
EPHEMERAL = (32768, 60999)  # the system's own ports, if it does not tell
DOORS: dict[str, dict[str, tuple[str, ...]]] = {
    "uvloop": {"Loop": ("create_server", "create_unix_server")},  # listens in C
    "uvicorn.server": {"Server": ("serve",)},  # before it starts the application's lifespan
    "uvicorn.config": {"Config": ("bind_socket",)},  # for other processes
}
"""What starts to listen by other ways than ``socket.socket.listen``: modules, classes and their methods."""
SERVERS = ("uvicorn", "hypercorn", "gunicorn")
"""Packages that bind a socket only in order to have it served, by other processes for example."""
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep
_OWN = os.path.dirname(os.path.dirname(__file__)) + os.sep
_Socket = socket.socket  # the application may put another class there, one that goes through a proxy for example
Address = Any


class Listens(RuntimeError):
    """The application starts to listen before it may."""


class ListeningGuard:
    """Keeps this process from listening; one per process."""

    def __init__(self, name: str, port: int, root: str, on_attempt: Callable[[str], object]) -> None:
        """``name`` is the application's, ``port`` the one that is guarded, ``root`` the project's folder.

        ``on_attempt`` is called with a sentence that says what was tried, and where; from any thread.
        """
        self._name = name
        self._port = port
        self._root = root.rstrip(os.sep) + os.sep
        self._on_attempt = on_attempt
        self._holds = False
        self._importing = True
        self._chosen: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        """Sockets on loopback whose port the system chose."""
        self._undo: list[Callable[[], object]] = []
        self.attempt = ""
        """What was tried first; empty if nothing was."""

    def begin(self) -> None:
        """From now on nothing listens."""
        self._holds = True
        self._replace(socket.socket, "bind", self._bind)
        self._replace(socket.socket, "listen", self._listen)
        finder = _Finder(self._close)
        for module in DOORS:
            if module in sys.modules:
                self._close(sys.modules[module])
        sys.meta_path.insert(0, finder)
        self._undo.append(lambda: sys.meta_path.remove(finder) if finder in sys.meta_path else None)
        os.register_at_fork(after_in_child=self.end)
        # gevent replaces functions of the module time, and this thread is none of gevent's.
        threading.Thread(target=self._watch, args=(time.sleep,), name="listening", daemon=True).start()

    def imported(self) -> bool:
        """The import is over; returns whether nothing tried to listen.

        A thread of the application that tries before it may is refused as before, and has then failed for good.
        """
        self._importing = False
        return not self.attempt

    def end(self) -> None:
        """From now on the application may listen; may be called more than once."""
        self._holds = False
        while self._undo:
            self._undo.pop()()

    # The doors.

    def _close(self, module: ModuleType) -> None:
        for name, methods in DOORS[module.__name__].items():
            for method in methods:
                self._replace(getattr(module, name, None), method, self._refuse)

    def _replace(self, owner: Any, name: str, check: Callable[..., object]) -> None:
        """Have a method of a class pass ``check`` first, called with the frame of its caller and the arguments."""
        original = getattr(owner, name, None)
        if original is None:
            return  # another release of the package has no such method

        @functools.wraps(original)
        def checked(*arguments: Any, **options: Any) -> Any:
            if self._holds:  # code that has kept this method calls it even after end()
                check(sys._getframe(1), *arguments, **options)
            return original(*arguments, **options)

        own = name in vars(owner)
        setattr(owner, name, checked)

        def restore() -> None:
            if vars(owner).get(name) is not checked:
                return  # somebody else has replaced it since
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)

        self._undo.append(restore)

    def _bind(self, caller: FrameType, sock: socket.socket, address: Address) -> None:
        if sock.type != socket.SOCK_STREAM:
            return
        package = _module(caller).partition(".")[0]
        if package in SERVERS:
            self._refuse(caller, what=_shown(address))
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or not isinstance(address, tuple):
            return
        if address[1:2] == (self._port,):
            self._refuse(caller, what=_shown(address))
        if address[1:2] == (0,) and _loopback(str(address[0])):
            self._chosen.add(sock)

    def _listen(self, caller: FrameType, sock: socket.socket, *_backlog: int) -> None:
        module = _module(caller)
        if sock in self._chosen and not module.startswith("asyncio."):
            return
        address = _shown(sock.getsockname())
        if module.startswith("multiprocessing.") and sock.family == getattr(socket, "AF_UNIX", 0) and _made_up(address):
            return
        self._refuse(caller, what=address)

    def _refuse(self, caller: FrameType, *_arguments: Any, what: str = "", **_options: Any) -> NoReturn:
        said = f"{self._name} starts to listen{f' on {what}' if what else ''} {self._when}{self._place(caller)}"
        self._report(said)
        raise Listens(f"{said}; {LISTENING_FIX}")

    def _report(self, said: str) -> None:
        if not self.attempt:
            self.attempt = said
            self._on_attempt(said)

    @property
    def _when(self) -> str:
        return "while it is imported" if self._importing else "before the verdict"

    def _place(self, frame: FrameType | None) -> str:
        """The place in the project that a frame was called from, in brackets; empty if there is none."""
        main = sys._current_frames().get(threading.main_thread().ident or 0)
        # A thread that only serves has no frame of the project: the main thread may show where it was started.
        for one in (frame, main):
            if place := self._innermost(one):
                return f" ({place})"
        return ""

    def _innermost(self, frame: FrameType | None) -> str:
        elsewhere = ""
        while frame is not None:
            file = frame.f_code.co_filename
            installed = "site-packages" in file or file.startswith((_STANDARD_LIBRARY, _OWN, "<"))
            if not installed and file.startswith(self._root):
                return f"{file.removeprefix(self._root)}:{frame.f_lineno}"
            if not installed and not elsewhere:
                elsewhere = f"{file}:{frame.f_lineno}"
            frame = frame.f_back
        return elsewhere

    # What listens all the same.

    def _watch(self, sleep: Callable[[float], object]) -> None:
        while self._holds:
            # A look that ends after end() may have seen the socket that is to be served.
            if not self.attempt and (found := _listeners(self._port)) and self._holds:
                self._report(f"{self._name} listens on {found[0]} {self._when}{self._place(None)}")
                os._exit(1)  # nothing that it answers may reach anybody
            if self.attempt and self._importing:
                sleep(LEAVE)
                os._exit(1)  # it was refused, and goes on trying
            sleep(LOOK)


class _Finder:
    """Sees the modules of :data:`DOORS` when they are imported; an entry of ``sys.meta_path``."""

    def __init__(self, on_import: Callable[[ModuleType], object]) -> None:
        self._on_import = on_import

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that another finder finds; its module is passed on once it has run."""
        if fullname not in DOORS:
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = find(fullname, path, target) if find and finder is not self else None
            if spec is not None and spec.loader is not None:
                loader: Any = spec.loader
                loader.exec_module = functools.partial(self._run, loader.exec_module)
                return spec
        return None

    def _run(self, run: Callable[[ModuleType], object], module: ModuleType) -> None:
        run(module)
        self._on_import(module)


def _module(frame: FrameType) -> str:
    """The module that called; ``socket`` and ``ssl``, which only pass calls on, are skipped."""
    caller: FrameType | None = frame
    while caller is not None:
        name = str(caller.f_globals.get("__name__", ""))
        if name not in ("socket", "ssl"):
            return name
        caller = caller.f_back
    return ""


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _made_up(name: str) -> bool:
    """Whether multiprocessing has made up this name of a socket for itself, which nobody else can know of.

    Python 3.14 calls it "sock-", and each release puts it into a folder of the process's own.
    """
    folder, own = os.path.split(name)
    return own.startswith(("listener-", "sock-")) and os.path.basename(folder).startswith("pymp-")


def _shown(address: Address) -> str:
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host or '0.0.0.0'}:{port}"
    return os.fsdecode(address).replace("\0", "@") if isinstance(address, str | bytes) else str(address)


def _listeners(guarded: int) -> list[str]:
    """Where this process listens although it should not."""
    found: list[str] = []
    low, high = _ephemeral()
    try:
        names = os.listdir("/dev/fd")
    except OSError:  # no descriptor is left to look with: the next look may have one
        return found
    for name in names:
        listens, family, address = _listening(int(name))
        if not listens:
            continue
        if family in (socket.AF_INET, socket.AF_INET6):
            host, port = address[:2]
            if port == guarded or not (_loopback(host) and low <= port <= high):
                found.append(_shown(address))
        elif not _made_up(_shown(address)):
            found.append(_shown(address))
    return found


def _listening(descriptor: int) -> tuple[bool, int, Address]:
    """Whether a descriptor is a socket that listens; its family and address."""
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return False, 0, None
        blocking = os.get_blocking(descriptor)
        sock = _Socket(fileno=descriptor)
    except OSError:  # closed meanwhile
        return False, 0, None
    try:
        return bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)), sock.family, sock.getsockname()
    except OSError:
        return False, 0, None
    finally:
        sock.detach()
        if socket.getdefaulttimeout() is not None:
            os.set_blocking(descriptor, blocking)  # it is not ours to change


def _ephemeral() -> tuple[int, int]:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = map(int, file.read().split())
    except (OSError, ValueError):
        return EPHEMERAL
    return low, high
