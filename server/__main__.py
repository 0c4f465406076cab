"""``python -m server`` takes the launcher's way, like ``python run.py``."""

import sys

from preflight import bootstrap

sys.exit(bootstrap.run())
