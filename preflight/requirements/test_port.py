"""The port, last: it is freed only when nothing else blocks the start."""

from __future__ import annotations

import pytest

from preflight.contract import Details, unknown
from preflight.settings.model import Settings
from preflight.suite.claimed import Claim, judged


@pytest.mark.warning("Port Cleanup", needs="port")
def test_port_cleanup(port: Claim, details: Details) -> None:
    """No process had to be stopped to free the port, or every such process has stopped."""
    details.update(
        holders=[holder.to_dict() for holder in port.holders],
        steps=[step.to_dict() for step in port.steps],
        refusals=[refusal.to_dict() for refusal in port.refusals],
        reasons=list(port.reasons),
    )
    details.fix = port.fix
    if port.untried:
        unknown(port.untried)
    if port.refusals:
        pytest.fail("left alone: " + "; ".join(f"{one.holder.describe()}: {one.reason}" for one in port.refusals))
    assert not port.stopped or port.socket is not None, port.problem
    if port.would_stop:
        details.summary = "a start would stop " + "; ".join(judged(port.holders, port.reasons))
    elif port.activated_by:
        details.summary = f"nothing to stop: systemd keeps the socket ({port.activated_by})"
    elif port.handed_over:
        details.summary = "the running instance is replaced without an outage"
    elif port.stopped:
        details.summary = "stopped " + "; ".join(judged(port.holders, port.reasons))
    else:
        details.summary = "nothing to stop"


@pytest.mark.critical("Server Port", needs="port", ignorable=False)
def test_server_port(settings: Settings, port: Claim, details: Details) -> None:
    """This run holds the port to serve on, or a start could hold it."""
    details.update(
        host=settings.host,
        port=settings.port,
        **({"uds": str(settings.uds)} if settings.uds is not None else {}),
        held=port.socket is not None,
        served_by=port.served_by.instance_id if port.served_by else None,
    )
    details.fix = port.fix
    if port.untried:
        unknown(port.untried)
    if port.served_by is not None:
        details.summary = f"served by our instance (PID {port.served_by.pid}) since {port.served_by.since_when}"
        if settings.next_start:
            details["next_start"] = list(settings.next_start)
            details.summary += f"; the next start would differ: {', '.join(settings.next_start)}"
        return
    assert port.socket is not None or port.obtainable, port.problem or f"{settings.address} is not free"
    if port.activated_by:
        details.summary = f"{settings.address} is a socket from systemd ({port.activated_by})"
    elif port.socket:
        by = ", handed over by the running instance" if port.handed_over else ""
        details.summary = f"{settings.address} is held{by}"
    else:
        details.summary = f"{settings.address} is free"
