"""The server's settings for TLS and logging."""

from __future__ import annotations

import time

import pytest

from preflight import commands
from preflight.contract import Details, unknown
from preflight.settings.model import Settings

# ssl, configparser and what comes with them are imported where one of these applies: most starts do without.

SOON = 14.0  # days; certificates that a machine renews are renewed 30 days before their end


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


@pytest.mark.critical("TLS Certificate", needs="tls", ignorable=False)
def test_tls_certificate(settings: Settings, details: Details) -> None:
    """The certificate and its private key can be read and belong together, and TLS can be served with them."""
    from preflight.suite.probes import certificates

    details.update(ssl_certfile=str(settings.ssl_certfile or ""), ssl_keyfile=str(settings.ssl_keyfile or ""))
    try:
        found = certificates.examine(settings)
    except certificates.UnusableCertificate as error:
        details.fix = error.fix
        pytest.fail(str(error))
    details.update(names=list(found.names))
    names = ", ".join(found.names[:3])
    details.summary = f"{found.path}, for {names}" if names else str(found.path)


@pytest.mark.warning("TLS Certificate Validity", needs="tls")
def test_tls_certificate_validity(settings: Settings, details: Details) -> None:
    """The certificate is valid today and for 14 more days."""
    from preflight.suite.probes import certificates

    try:
        certificate = certificates.examine(settings)
    except certificates.UnusableCertificate:
        unknown("TLS Certificate says why the certificate cannot be used")
    shown = commands.quoted(certificate.path)
    details.fix = f"renew the certificate, then start again (openssl x509 -noout -dates -in {shown} shows its dates)"
    assert certificate.ends is not None, f"clients refuse {certificate.path}: {certificate.problem}"
    details.update(valid_until=_day(certificate.ends))
    left = certificate.days_left()
    assert left >= SOON, (
        f"{certificate.path} expires on {_day(certificate.ends)}, in {left:.0f} days; {SOON:.0f} or more are needed"
    )
    details.summary = f"until {_day(certificate.ends)}"


@pytest.mark.critical("Log Configuration", needs="log_config", ignorable=False)
def test_log_configuration(settings: Settings, details: Details) -> None:
    """The file that log_config names can be read, and can configure the logging."""
    from preflight.suite.probes import logconfig

    path = settings.log_config
    assert path is not None
    details.update(log_config=str(path))
    try:
        details.summary = f"{path}, {logconfig.examine(path)}"
    except logconfig.UnusableLogConfig as error:
        details.fix = error.fix
        pytest.fail(f"{settings.place('log_config')}: {error}")
