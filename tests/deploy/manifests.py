"""What deploy/kubernetes sends to a cluster, read as kustomize reads it: each kustomization names its files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
JOBS = ("check", "migrate")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def objects(folder: str = ".") -> Iterator[dict[str, Any]]:
    """The objects of one kustomization, as its files have them."""
    for name in load(KUBERNETES / folder / "kustomization.yaml")["resources"]:
        yield from yaml.safe_load_all((KUBERNETES / folder / name).read_text(encoding="utf-8"))


def one(kind: str, folder: str = ".") -> dict[str, Any]:
    """The only object of this kind."""
    (found,) = [entry for entry in objects(folder) if entry["kind"] == kind]
    return found


def pod(folder: str = ".") -> dict[str, Any]:
    """The specification of the pods that a Deployment or a Job makes."""
    spec: dict[str, Any] = one("Deployment" if folder == "." else "Job", folder)["spec"]["template"]["spec"]
    return spec


def container(folder: str = ".") -> dict[str, Any]:
    """The only container of those pods."""
    (only,) = pod(folder)["containers"]
    return dict(only)


def configuration() -> dict[str, str]:
    """The variables of the ConfigMap."""
    return dict(one("ConfigMap")["data"])


def dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile's last stage, in order: name and text, continued lines joined."""
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#")).replace("\\\n", " ")
    steps = [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)]
    last = max(number for number, (name, _) in enumerate(steps) if name == "FROM")
    return steps[last:]


def image_variables() -> dict[str, str]:
    """What the image sets in the environment."""
    (text,) = [rest for name, rest in dockerfile() if name == "ENV"]
    return dict(pair.split("=", 1) for pair in text.split())


def image_command() -> list[str]:
    """What a container of the image starts."""
    (text,) = [rest for name, rest in dockerfile() if name == "ENTRYPOINT"]
    return list(yaml.safe_load(text))
