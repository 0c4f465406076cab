"""Root's privileges and tests: which need them, and how a test that runs as root starts something without them."""

from __future__ import annotations

import os
import shutil

import pytest

ROOT = os.geteuid() == 0

WITHOUT = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if ROOT else []
"""What a command begins with that runs without root's privileges. For an ordinary user, any does.

Run by root it still belongs to root, so it can read what the tests' own interpreter consists of, wherever that is; but
without a single capability modes hold for it as for anybody.
"""

unprivileged = pytest.mark.skipif(ROOT and shutil.which("setpriv") is None, reason="no setpriv to drop privileges with")
"""For tests that use :data:`WITHOUT`."""
