"""Assertions that hold whatever is found, and those that only look so."""

from __future__ import annotations

from types import ModuleType

import pytest

from preflight.suite.soundness.tautologies import always_hold

HEAD = """
import enum, httpx2, os, pathlib, subprocess
from concurrent.futures import wait as far
from functools import cached_property
from os.path import isdir
from pathlib import Path
from json.encoder import c_encode_basestring_ascii as accelerated
try:
    from json import loads
except ImportError:
    loads = None

class Answer(list):
    pass

class Maybe:
    def __new__(cls):
        return None

class Colour(enum.Flag):
    RED = 1

def own() -> Maybe:
    return None

class Client:
    def is_up(self):
        return False

    @property
    def ready(self):
        return False

    @cached_property
    def late(self):
        return False

class Proxy:
    @property
    def __class__(self):
        raise RuntimeError("not configured")

CLIENT, HOSTS, FOUND, CURRENT = Client(), [], {}, Proxy()
CLIENT.exists = True
CLIENT.on_error = Client.on_end = print
NAMES = ["a", "b"]
GIVEN = ["a"]
GIVEN.remove("a")

def is_up(host="a"):
    return False

"""
TEST = "def test_own(found, client, rows):\n    def inner():\n        return False\n    number = 3\n    {}\n"
HOLD = (
    "assert found == 200 or 204",
    "assert found == 'ready' or 'running'",
    "assert found or found == 1 or ('a' and 'b')",
    "assert f'{found} is ready'",
    "assert 'a' if found else 'b'",
    "assert [found]",
    "assert {**rows, 'a': found}",
    "assert [is_up(name) for name in NAMES]",
    "assert {name: found for name in ('a', 'b')}",
    "assert far",
    "assert CLIENT.is_up",
    "assert Client.is_up",
    "assert os.path.exists",
    "assert isdir",
    "assert (found / 'a').exists",
    "path = Path(found); assert path.exists",
    "assert Path(found).is_file",
    "assert (found / 'a').is_dir",
    "assert str(found).startswith, 'no'",
    "assert inner",
    "assert (is_up)",
    "assert is_up and CLIENT.is_up",
    "assert (one := (found, 'no'))",
    "assert (found, 'no')",
    "assert lambda: found",
    "assert (row for row in rows)",
    "assert 'a text'",
    "assert found in (\n        1,\n    ) or 'a', 'a message'",
    "assert found or \\\n        'no'",
    "assert (\n        found\n        or is_up\n    )",
    "if found: assert found or 'a'",
    "assert Path(found), 'it is missing'",
    "assert pathlib.Path(found)",
    "assert found / 'model.bin', 'it is missing'",
    "assert found / f'{rows}.bin'",
    "path = Path(found); assert path, 'it is missing'",
    "path = found / 'model.bin'; assert path",
    "done = subprocess.run(['false'], check=False); assert done, 'it fails'",
    "answer: object = httpx2.get(found); assert answer",
    "assert (path := Path(found))",
    "assert subprocess.run(['false'])",
    "assert subprocess.run(['false'], check=False)",
    "assert subprocess.run(\n        ['false'],\n    ), 'it fails'",
    "assert found or map(is_up, rows)",
    "assert filter(is_up, rows)",
    "assert httpx2.get(found)",
    "assert ValueError(found)",
    "assert found, 200",
    "assert found == 200, -1  # no",
    "assert len(rows), 3",
    "assert found, True",
    "assert found, 0x10",
    "assert found, 1e3",
    "assert found, (2_00)",
    "assert found, 200; client.close()",
)
MAY_FAIL = (
    "assert True",
    "assert 1",
    "assert found",
    "assert number",
    "assert loads",
    "assert accelerated",
    "assert os.getcwd",
    "assert CURRENT",
    "assert CLIENT.exists",
    "assert found.exists()",
    "assert found.exists ()",
    "assert os.path.exists(found)",
    "assert found.existing",
    "assert found.exists",
    "assert rows.is_file",
    "assert not found.exists",
    "assert CLIENT.on_error",
    "assert CLIENT.on_end",
    "from types import SimpleNamespace as far\n    assert far",
    "from types import SimpleNamespace as Client\n    assert Client.is_up",
    "assert [name for name in GIVEN]",
    "assert (f'''{\"a\u00a0b\"} x''' != found)",
    "assert client.is_up",
    "assert CLIENT.ready",
    "assert CLIENT.late",
    "assert CLIENT.is_up()",
    "assert is_up()",
    "assert not is_up",
    "assert [row for row in rows]",
    "assert [name for name in NAMES if name == found]",
    "assert [host for host in HOSTS]",
    "assert [*rows]",
    "assert {**rows}",
    "assert f'{found}'",
    "assert f'{found}' == 'a'",
    "assert found or ''",
    "assert found or 0 or None or HOSTS",
    "assert found, client or 'a message'",
    "assert FOUND.get('a') or found",
    "assert 'a' in rows",
    "assert 'a' and found",
    "assert 'a' if found else ''",
    "assert (found, rows) == (1, 2)",
    "assert found == 'a' or found == 'b'",
    "text = '''\n    assert (found, 1)\n'''",
    "assert Path(found).exists()",
    "assert Path(found) / found == rows",
    "assert found / number",
    "assert number / 2, 'a message'",
    "path = Path(found); path = client.get('path'); assert path",
    "path = Path(found) if found else None; assert path",
    "done = subprocess.run(['false']).stdout; assert done",
    "done = subprocess.run(['false']) if found else None; assert done",
    "done = client.run(found); assert done",
    "one, other = Path(found), found; assert other",
    "for path in rows: assert path, 'a message'",
    "assert subprocess.run(['false']).returncode == 0",
    "assert subprocess.run(['false'], check=True)",
    "assert subprocess.run(['false'], **found)",
    "done = subprocess.run(['false'], check=bool(found)); assert done",
    "assert str(found)",
    "assert bool(found) and list(rows) and len(rows)",
    "assert Client()",
    "assert httpx2.Client()",
    "assert Answer()",
    "assert Maybe()",
    "assert own()",
    "assert Colour(0)",
    "from types import SimpleNamespace as Client\n    assert Client()",
    "Path = client\n    assert Path(found)",
    "assert found, '200'",
    "assert found, number",
    "assert found in (1, 200)",
    "assert is_up(200), f'{found}, 200'",
)


def lines(body: str) -> list[int]:
    module = ModuleType("module")
    exec(HEAD, vars(module))
    return [line for line, _ in always_hold((HEAD + TEST.format(body)).encode(), module)]


@pytest.mark.parametrize("body", HOLD)
def test_what_always_holds(body: str) -> None:
    """It is found, with its line."""
    assert lines(body) == [HEAD.count("\n") + 5]


@pytest.mark.parametrize("body", MAY_FAIL)
def test_what_may_fail(body: str) -> None:
    """However much it looks like the others, and whatever other lines say."""
    assert lines(body) == []
