"""Assertions in tasks and processes that a requirement begins, and whose answers it does not take."""

from __future__ import annotations

import pytest

from tests.adversary.suites import FILE, check, refused, suite
from tests.e2e.installing import Adopter

pytestmark = pytest.mark.usefixtures("unmeasured")

HEAD = """
import asyncio
import multiprocessing
import time

import pytest

async def ping(answer=False):
    await asyncio.sleep(0)
    assert answer, "no answer"

def check():
    assert False, "no"
"""
OWN = '@pytest.mark.critical("Own{}")\ndef test_own{}():\n    "It."\n    {}\n'

UNHEARD = {
    "a task": "async def main():\n    asyncio.create_task(ping())\nasyncio.run(main())",
    "a task that is kept": "async def main():\n    return asyncio.ensure_future(ping())\nassert asyncio.run(main())",
    "tasks that are gathered": "async def main():\n    asyncio.gather(ping(), ping())\nasyncio.run(main())",
    "a task below one": "async def every():\n    await ping()\nasync def main():\n    asyncio.create_task(every())\n"
    "asyncio.run(main())",
    "a task of a loop that does not run": "with asyncio.Runner() as runner:\n    runner.get_loop().create_task(ping())",
    "a forked process": "one = multiprocessing.get_context('fork').Process(target=check)\none.start()\none.join()",
    "a spawned process": "one = multiprocessing.get_context('spawn').Process(target=check)\none.start()\none.join()",
}
HEARD = {
    "awaited": "async def main():\n    await asyncio.gather(ping(True), asyncio.create_task(ping(True)))\n"
    "asyncio.run(main())",
    "cancelled": "async def main():\n    task = asyncio.create_task(ping())\n    await asyncio.sleep(0)\n"
    "    task.cancel()\nasyncio.run(main())",
    "a server for what is asked": "async def serve():\n    while True:\n        await asyncio.sleep(1)\n"
    "async def main():\n    asyncio.create_task(serve())\n    await asyncio.sleep(0)\nasyncio.run(main())",
    "an exit code": "one = multiprocessing.get_context('fork').Process(target=check)\none.start()\none.join()\n"
    "assert one.exitcode == 1",
    "terminated": "one = multiprocessing.get_context('fork').Process(target=time.sleep, args=(99,))\none.start()\n"
    "one.terminate()\none.join()",
    "a pool": "with multiprocessing.get_context('fork').Pool(1) as pool:\n    assert pool.map(abs, [-1]) == [1]",
}


def requirement(body: str, number: int | str = "") -> str:
    return OWN.format(number, number, body.replace("\n", "\n    "))


@pytest.mark.parametrize("what", UNHEARD)
def test_answers_that_nobody_takes(shop: Adopter, what: str) -> None:
    """The assertion has failed, or would have: the requirement does not hold, and the message says what it began."""
    shop.write(FILE, HEAD + requirement(UNHEARD[what]))
    for run in (check, suite):
        one = run(shop)
        refused(one)
        why = "check() has failed in a process of its own" if "process" in what else "ping() is not awaited"
        assert why in one.output


def test_answers_that_somebody_takes(shop: Adopter) -> None:
    """Who awaits, cancels, or asks for the exit code holds, and so does what serves in the background."""
    shop.write(FILE, HEAD + "\n".join(requirement(body, number) for number, body in enumerate(HEARD.values())))
    for run in (check, suite):
        one = run(shop)
        assert one.process.returncode == 0, one.output
