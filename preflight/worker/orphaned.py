"""What a worker does once its launcher, which reads what the application prints, is gone."""

from __future__ import annotations

import contextlib
import os
import select
import time


def outlive_the_reader(seconds: float) -> None:
    """Wait; once nobody reads what the application prints, let it lead nowhere: no answer fails because of it."""
    until = time.monotonic() + seconds
    poll = select.poll()
    for descriptor in (1, 2):
        poll.register(descriptor, 0)  # that its other end is gone is told in any case
    while (left := until - time.monotonic()) > 0:
        for descriptor, _event in poll.poll(left * 1000):
            poll.unregister(descriptor)
            with contextlib.suppress(OSError), open(os.devnull, "wb") as nowhere:  # too many open files, say
                os.dup2(nowhere.fileno(), descriptor)
