"""Distributions as installers, builds and accidents leave them: real folders, imported in real processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from preflight import ready
from preflight.suite.probes import imports
from tests import trees
from tests.ready.asking import ask, passed

Install = Callable[..., None]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for distributions, first on the path of this process and of those that it starts."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    imports.installed.cache_clear()
    yield folder
    imports.installed.cache_clear()


@pytest.fixture
def install(site: Path) -> Install:
    """Put a distribution there: its modules, by path, and what pip writes about it."""

    def run(name: str, version: str, modules: dict[str, str], *metadata: str, record: list[str] | None = None) -> None:
        trees.plant(site, modules)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *metadata, ""]
        files = {
            "METADATA": "\n".join(lines),
            "RECORD": "".join(f"{file},,\n" for file in (modules if record is None else record)),
        }
        trees.plant(site / f"{name.replace('-', '_')}-{version}.dist-info", files)

    return run


@pytest.mark.slow
def test_distributions(tmp_path: Path) -> None:
    """Version and import are asked, not the metadata alone."""
    assert ask(tmp_path, ready.distribution("psutil>=5")).outcome == "passed"
    assert ask(tmp_path, ready.distribution("no-such-thing")).message == "no-such-thing is not installed"
    old = ask(tmp_path, ready.distribution("psutil>=999"))
    assert old.message.startswith("psutil is ")
    assert old.fix == ""
    broken = ask(tmp_path, ready.distribution("psutil", module="no_such_module"))
    assert broken.message.endswith("fails (ModuleNotFoundError: No module named 'no_such_module')")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, files, modules",
    [
        ("acme.yaml", {"acme/yaml/__init__.py": "", "acme/yaml/nodes.py": ""}, ["acme.yaml"]),
        ("acme-yaml", {"acme/yaml/__init__.py": ""}, ["acme.yaml"]),
        (
            "acme-cloud-storage",
            {"acme/cloud/storage/__init__.py": "", "acme/cloud/_storage_v2/__init__.py": "raise OSError"},
            ["acme.cloud.storage"],
        ),
        ("acme-tool", {"tool/__init__.py": "", "tests/__init__.py": "raise OSError"}, ["tool"]),
        ("types-acme", {"acme-stubs/__init__.pyi": ""}, []),
        ("acme-everything", {}, []),
    ],
)
def test_the_modules_of_a_distribution(
    tmp_path: Path, install: Install, name: str, files: dict[str, str], modules: list[str]
) -> None:
    """They may be in a namespace that others share, or have another name; some distributions have none."""
    install(name, "2.0", files)
    ended = ask(tmp_path, ready.distribution(f"{name}>=1"))
    assert passed(ended)["modules"] == modules
    assert ended.message == ("2.0, and can be imported" if modules else "2.0, and names no module to import")


@pytest.mark.slow
def test_an_editable_installation(tmp_path: Path, site: Path, install: Install) -> None:
    """It lists no module: the one that is called like it is imported, and no other is guessed."""
    install("acme-shop", "0.1", {"acme_shop/__init__.py": "raise OSError"}, record=["_editable_impl_acme_shop.pth"])
    assert ask(tmp_path, ready.distribution("acme-shop")).message.endswith("import acme_shop fails (OSError)")
    install("acme-store", "0.1", {"shop/__init__.py": ""}, record=["_editable_impl_acme_store.pth"])
    assert ask(tmp_path, ready.distribution("acme-store")).message == "0.1, and names no module to import"
    assert ask(tmp_path, ready.distribution("acme-store", module="shop")).message == "0.1, and can be imported"


@pytest.mark.slow
def test_what_others_have_left_beside_a_distribution(
    tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the folder of an installation that was interrupted nor an old build among the sources is what counts."""
    sources = trees.plant(
        tmp_path / "sources",
        {
            "acme_front-1.0.dist-info/INSTALLERxne2hz8x.tmp": "",
            "acme_front.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: acme-front\nVersion: 0.9\n",
        },
    )
    monkeypatch.syspath_prepend(str(sources))
    assert ask(tmp_path, ready.distribution("acme-front>=1.5")).message == "acme-front is 0.9, but must be >=1.5"
    imports.installed.cache_clear()
    install("acme-front", "2.0", {"acme_front.py": ""})
    assert ask(tmp_path, ready.distribution("acme-front>=1.5")).message == "2.0, and can be imported"


def test_metadata_that_are_damaged(tmp_path: Path, site: Path) -> None:
    """Nobody knows the version then."""
    (site / "acme_void-1.0.dist-info").mkdir()
    trees.plant(site / "acme_torn-1.0.dist-info", {"METADATA": b"\xff\xfe\x00Name"})
    for name in ("acme-void", "acme-torn"):
        ended = ask(tmp_path, ready.distribution(name))
        assert ended.message == f"{name} has no version that can be read: its metadata is damaged"


@pytest.mark.slow
def test_extras(tmp_path: Path, install: Install) -> None:
    """What they need has to be there as well; one that the distribution does not have is told."""
    install("acme-web", "1.0", {"acme_web.py": ""}, "Provides-Extra: fast", "Requires-Dist: acme-c>=2; extra == 'fast'")
    missing = ask(tmp_path, ready.distribution("acme-web[fast]"))
    assert missing.message == "acme-c is not installed (for acme-web[fast])"
    install("acme-c", "1.9", {})
    imports.installed.cache_clear()
    old = "acme-c is 1.9, but must be >=2 (for acme-web[fast])"
    assert ask(tmp_path, ready.distribution("acme-web[fast]")).message == old
    other = ask(tmp_path, ready.distribution("acme-web[slow]"))
    assert other.message == "1.0, and can be imported; acme-web has no extra 'slow'"


def test_a_distribution_for_another_system(tmp_path: Path) -> None:
    """It is not missed here."""
    ended = ask(tmp_path, ready.distribution("pywin32>=306; sys_platform == 'win32'"))
    assert ended.outcome == "not_applicable"


@pytest.mark.slow
def test_an_import_that_ends_the_process(tmp_path: Path, install: Install) -> None:
    """It has not imported, whatever its exit code."""
    install("acme-exit", "1.0", {"acme_exit.py": "raise SystemExit(0)"})
    assert ask(tmp_path, ready.distribution("acme-exit")).message.endswith("import acme_exit fails (exit code 0)")


def test_versions_that_are_no_releases(tmp_path: Path, install: Install) -> None:
    """A local build is one of its version, a pre-release comes before it, and an old name has no order."""
    for name, version in {"acme-gpu": "2.4.0+cu121", "acme-pre": "1.4.0.dev0", "acme-old": "2013b-final"}.items():
        install(name, version, {})
    for wanted in ("acme-gpu==2.4.0", "acme-pre>=1.3", "acme-old"):
        assert ask(tmp_path, ready.distribution(wanted)).outcome == "passed"
    assert ask(tmp_path, ready.distribution("acme-pre>=1.4")).message == "acme-pre is 1.4.0.dev0, but must be >=1.4"
    assert ask(tmp_path, ready.distribution("acme-old>=1")).outcome == "failed"


def test_conflicts(tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a distribution requires and does not find, or finds too old, is a line each."""
    needs = ("psutil>=999", "nobody-has-this", "absent; extra == 'x'", "right>=1")
    install("left", "1", {}, *(f"Requires-Dist: {one}" for one in needs))
    install("right", "1", {})
    stale = {"right.egg-info/PKG-INFO": "Metadata-Version: 2.1\nName: right\nVersion: 0.9\n"}
    monkeypatch.syspath_prepend(str(trees.plant(tmp_path / "sources", stale)))
    found = ask(tmp_path, ready.no_conflicts()).details["conflicts"]
    assert [one for one in found if one.startswith("left ")] == [
        "left requires nobody-has-this, which is not installed",
        next(one for one in found if one.startswith("left requires psutil>=999, but ")),
    ]


def test_a_broken_version_is_told(tmp_path: Path, site: Path) -> None:
    """What pip leaves when it is interrupted is nobody's, and a distribution whose metadata is damaged is named."""
    wants = {"left": "Version: 1\nRequires-Dist: broken>=1\n", "broken": "Version: none of it\n"}
    for name, lines in {**wants, "~psutil": "Version: 0\n"}.items():
        folder = site / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.strip('~')}\n{lines}\n")
    found = ask(tmp_path, ready.no_conflicts()).details["conflicts"]
    assert "broken has no version that can be read: its metadata is damaged" in found
    assert not [one for one in found if "psutil" in one]
