"""``python -m server`` takes the launcher's way, like ``python run.py``."""

import sys

try:
    from preflight import bootstrap

    code = bootstrap.run()
except KeyboardInterrupt:  # before the launcher listens to signals, or after
    code = 130
sys.exit(code)
