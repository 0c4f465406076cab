"""Starts another program as its child and then does not behave: never reaps, dies, or starts it again.

The child's "ready PORT" goes through to standard output. `orphan` prints the child's PID first.
"""

import os
import signal
import subprocess
import sys

behaviour, *command = sys.argv[1:]

if behaviour == "never-reaps":
    child = subprocess.Popen(command)
    while True:
        signal.pause()

if behaviour == "orphan":
    # Listens, forks a child that inherits the socket, and dies: `sleep` held a port for hours that way.
    import socket

    listener = socket.create_server(("127.0.0.1", int(command[0])))
    if os.fork() == 0:
        print("ready", listener.getsockname()[1], flush=True)
        while True:
            signal.pause()
    os._exit(0)

if behaviour == "respawns":
    # Holds no socket itself. Like a blue-green supervisor it has the next worker listening before the last one goes,
    # so whoever waits for the port to become free waits in vain.
    import socket

    def worker(port: int) -> int:
        """Fork one that listens beside the others; returns its port when it does."""
        read, write = os.pipe()
        if os.fork() == 0:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(("127.0.0.1", port))
            listener.listen()

            def replaced(number: int, frame: object) -> None:
                os.kill(os.getppid(), signal.SIGUSR1)  # and goes when the parent says that the next one is there

            signal.signal(signal.SIGTERM, replaced)
            signal.signal(signal.SIGUSR2, lambda number, frame: os._exit(0))
            os.write(write, str(os.getpid()).encode() + b" " + str(listener.getsockname()[1]).encode())
            while True:
                signal.pause()
        pid, number = os.read(read, 64).split()
        global current
        current = int(pid)
        return int(number)

    def replace(number: int, frame: object) -> None:
        last = current
        worker(port)
        os.kill(last, signal.SIGUSR2)

    current = 0
    signal.signal(signal.SIGUSR1, replace)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    port = worker(int(command[0]))
    print("ready", port, flush=True)
    while True:
        signal.pause()
