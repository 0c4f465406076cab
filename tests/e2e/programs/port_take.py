"""Takes a port in a process of its own and prints what came of it as JSON.

With `--inside` it first listens on the port and lets a child try: the child's ancestor is then the holder.
"""

import argparse
import ctypes
import json
import os
import socket
import subprocess
import sys

import psutil  # noqa: F401  # imported lazily later on, when --user may not be able to read it any more

from preflight import ports
from preflight.ports.portable import Portable
from preflight.redaction import arguments  # noqa: F401  # the first like psutil

options = argparse.ArgumentParser(description=__doc__)
options.add_argument("host")
options.add_argument("port", type=int)
options.add_argument("--portable", action="store_true")
options.add_argument("--inside", action="store_true")
options.add_argument("--user", type=int, help="whose process it becomes (root only)")
chosen = options.parse_args()

if chosen.inside:
    with socket.create_server((chosen.host, chosen.port)):
        again = [argument for argument in sys.argv if argument != "--inside"]
        sys.exit(subprocess.run([sys.executable, *again]).returncode)

machine = Portable() if chosen.portable else ports.here()
if chosen.user:
    os.setgroups([])
    os.setresgid(chosen.user, chosen.user, chosen.user)
    os.setresuid(chosen.user, chosen.user, chosen.user)
    ctypes.CDLL(None).prctl(4, 1)  # PR_SET_DUMPABLE: like a process that was this user's from the start
taken = ports.take(chosen.host, chosen.port, ports.Policy(grace=0.3), machine=machine)
outcome = {
    "held": taken.socket is not None,
    "holders": [holder.to_dict() for holder in taken.holders],
    "reasons": [refusal.reason for refusal in taken.refusals],
    "steps": [step.to_dict() for step in taken.steps],
    "problem": taken.problem,
    "fix": taken.fix,
}
print(json.dumps(outcome))
