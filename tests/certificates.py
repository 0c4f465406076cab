"""Certificates of a test's own, made by the openssl that is installed."""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """A certificate for localhost and its private key, as files."""

    certificate: Path
    key: Path

    def trusting(self) -> ssl.SSLContext:
        """For clients that trust it."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context


def validity(days: int) -> list[str]:
    """Options of ``openssl x509`` for so many days from now; one of -1 day has expired.

    OpenSSL 3.6 takes no negative number; before 3.4 there were no dates.
    """
    known = subprocess.run(["openssl", "x509", "-help"], check=True, capture_output=True, text=True)
    if days >= 0 or "-not_after" not in known.stdout + known.stderr:
        return ["-days", str(days)]
    ends = datetime.now(UTC) + timedelta(days=days)
    begins = ends - timedelta(days=1)
    return ["-not_before", f"{begins:%Y%m%d%H%M%SZ}", "-not_after", f"{ends:%Y%m%d%H%M%SZ}"]


def make(folder: Path, name: str = "server", *, days: int = 365, password: str = "") -> Pair:
    """A certificate that signs itself; with a ``password`` its key is encrypted. One of -1 day has expired."""
    folder.mkdir(parents=True, exist_ok=True)
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    request = folder / f"{name}.csr"
    extensions = folder / f"{name}.ext"
    extensions.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    make_key = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    make_key += ["-keyout", str(pair.key), "-out", str(request), "-subj", "/CN=localhost"]
    make_key += ["-passout", f"pass:{password}"] if password else ["-noenc"]
    sign = ["openssl", "x509", "-req", "-in", str(request), "-key", str(pair.key), "-passin", f"pass:{password}"]
    sign += [*validity(days), "-extfile", str(extensions), "-out", str(pair.certificate)]
    for command in (make_key, sign):
        subprocess.run(command, check=True, capture_output=True)
    return pair
