"""``python -m server`` starts the launcher, like ``python run.py``, and an old Python can read it, too."""

import sys

import run

sys.exit(run.main())
