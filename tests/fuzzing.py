"""How much made-up input a fuzz test takes: a hundred pieces in the suite, more with `FUZZ=10000 pytest -k fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("FUZZ", "100"))

# The same inputs in every run of the suite, other ones in every long run.
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize="FUZZ" not in os.environ,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
