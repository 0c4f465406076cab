"""``python -m server`` takes the launcher's way, like ``python run.py``, and is as understandable to an old Python."""

import sys

import run

sys.exit(run.main())
