"""``python -m server`` takes the launcher's way, like ``python run.py``."""

import sys

from preflight.processes import signals

signals.end_the_command()  # before anything that takes its time to import
from preflight import bootstrap  # noqa: E402

sys.exit(bootstrap.run())
