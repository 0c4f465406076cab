"""Podman as Docker, for the lines that a reader types: with folders of its own, and nothing of the machine's settings.

Where no registry can be reached, debootstrap makes a stand-in for the base image: the Debian that has a Python of the
same minor version, with pip where the official image has it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BASE = re.findall(r"^FROM (\S+) AS build$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0]
STAND_IN = "forky"  # the Debian whose Python 3.13 is as new as the application asks for
PATIENCE = 1800.0  # seconds: it installs a hundred packages, on a machine that may have other things to do


class Engine:
    """An engine whose images and containers are in one folder, and the environment in which lines are typed."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        """``variables``: what every container has in its environment, beside what the line says."""
        self.folder = folder
        (folder / "bin").mkdir()
        docker = folder / "bin" / "docker"
        # Health checks are run by systemd's timers, which a machine for tests has not; the test runs them itself.
        docker.write_text(
            '#!/bin/sh\nverb=$1; shift\n[ "$verb" != run ] || set -- --no-healthcheck "$@"\nexec podman "$verb" "$@"\n'
        )
        docker.chmod(0o755)
        env = ", ".join(json.dumps(f"{name}={value}") for name, value in variables.items())
        runtime = f'runtime = "{shutil.which("runc")}"\n' if shutil.which("runc") else ""
        (folder / "containers.conf").write_text(
            '[containers]\nnetns = "host"\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n'
            f'env = [{env}]\n[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n{runtime}'
        )
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/images"\nrunroot = "{folder}/running"\n'
        )
        (folder / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n')
        (folder / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("PREFLIGHT_")},
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "HOME": str(folder),
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
            # A builder in a container of its own may make no namespaces; the docker format keeps HEALTHCHECK.
            "BUILDAH_ISOLATION": "chroot",
            "BUILDAH_FORMAT": "docker",
        }
        (folder / ".config" / "containers").mkdir(parents=True)
        shutil.copy(folder / "policy.json", folder / ".config" / "containers")

    def type(self, line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """What a line of the shell does, typed in the checkout."""
        return subprocess.run(
            ["sh", "-c", line], cwd=ROOT, env={**self.environ, **variables}, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip

    def must(self, line: str, **variables: str) -> str:
        """Its output, where it ends well."""
        done = self.type(line, **variables)
        assert done.returncode == 0, (
            f"{line}\nended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
        )
        return done.stdout

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """What the engine knows of an image or a container."""
        (found,) = json.loads(self.must(f"podman {kind} inspect {name}"))
        return dict(found)

    def get_base(self) -> None:
        """Have the base image: of its registry, or one like it."""
        if self.type(f"timeout 120 podman pull {BASE}").returncode == 0:
            return
        tree = self.folder / "base"
        scripts = self.folder / "debootstrap"
        shutil.copytree("/usr/share/debootstrap", scripts, symlinks=True)
        if not (scripts / "scripts" / STAND_IN).exists():  # an older debootstrap: every newer Debian is made like sid
            (scripts / "scripts" / STAND_IN).symlink_to("sid")
        minor = re.findall(r":(\d+\.\d+)", BASE)[0]
        packages = f"python{minor},python{minor}-venv,ca-certificates"
        self.must(f"debootstrap --variant=minbase --include={packages} {STAND_IN} {tree}", DEBOOTSTRAP_DIR=str(scripts))
        self.must(f"chroot {tree} /usr/bin/python{minor} -m venv /usr/local")
        certificates = Path("etc/ssl/certs/ca-certificates.crt")
        shutil.copy("/" / certificates, tree / certificates)  # whom this machine trusts, the builder trusts
        path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        self.must(f"tar -C {tree} -c . | podman import --change ENV=PATH={path} - {BASE}")
        shutil.rmtree(tree)

    def close(self) -> None:
        """End what still runs, and let go of the file systems."""
        self.type("podman rm --all --force --time 0; podman rmi --all --force; podman unmount --all")
