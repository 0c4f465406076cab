"""A process that listens, in every way that tests of freeing a port need. Says "ready PORT" when it does."""

import argparse
import contextlib
import ctypes
import os
import signal
import socket
import time

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("--host", default="127.0.0.1")
options.add_argument("--port", type=int, default=0)
options.add_argument("--v6only", action=argparse.BooleanOptionalAction)
options.add_argument("--backlog", type=int, default=16)
options.add_argument("--no-listen", action="store_true", help="only bind")
options.add_argument("--no-reuse", action="store_true", help="without SO_REUSEADDR")
options.add_argument("--accept", action="store_true", help="accept connections and keep them")
options.add_argument("--workers", type=int, default=0, help="children that share the socket")
options.add_argument("--helper", help="a child of this name that does not hold the socket")
options.add_argument("--on-term", choices=["exit", "ignore", "later", "close-then-later", "fork"], default="exit")
options.add_argument("--later", type=float, default=3.0, help="seconds to exit")
options.add_argument("--close-on-usr1", action="store_true", help="close the socket and stay")
options.add_argument("--user", type=int, help="whose process it becomes before it listens (root only)")
options.add_argument("--user-later", type=int, help="whose process it becomes when it listens (root only)")
options.add_argument("--name", help="what the kernel calls the process")
chosen = options.parse_args()


def be_called(name: str) -> None:
    ctypes.CDLL(None).prctl(15, name.encode())  # PR_SET_NAME


def become(user: int) -> None:
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: like a process that was this user's from the start


def on_term(number: int, frame: object) -> None:
    if chosen.on_term == "close-then-later":
        time.sleep(0.1)  # after whoever asked has looked for the first time
        listener.close()
    if chosen.on_term == "fork" and os.fork() == 0:
        chosen.on_term = "exit"
        return  # and goes on listening
    if chosen.on_term in ("later", "close-then-later"):
        time.sleep(chosen.later)
    os._exit(0)


if chosen.user:
    become(chosen.user)


def close(number: int, frame: object) -> None:
    listener.close()
    os.write(1, b"closed\n")  # print() may be at "ready" still, and cannot be entered twice


listener = socket.socket(socket.AF_INET6 if ":" in chosen.host else socket.AF_INET)
if chosen.v6only is not None:
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(chosen.v6only))
if not chosen.no_reuse:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((chosen.host, chosen.port))
if not chosen.no_listen:
    listener.listen(chosen.backlog)
port = listener.getsockname()[1]
if chosen.user_later:
    become(chosen.user_later)

if chosen.name:
    be_called(chosen.name)
signal.signal(signal.SIGTERM, signal.SIG_IGN if chosen.on_term == "ignore" else on_term)
if chosen.close_on_usr1:
    signal.signal(signal.SIGUSR1, close)
for _ in range(chosen.workers):
    if os.fork() == 0:
        break
else:
    read, write = os.pipe()
    if chosen.helper and os.fork() == 0:
        listener.close()
        be_called(chosen.helper)
        os.write(write, b".")
    else:
        if chosen.helper:
            os.read(read, 1)
        print("ready", port, flush=True)

kept = []
while True:
    if chosen.accept:
        with contextlib.suppress(OSError):
            kept.append(listener.accept())
            continue
    signal.pause()
