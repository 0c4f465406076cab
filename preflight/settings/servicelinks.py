"""Variables that a platform injects for each service of a network, and that look like settings of ours.

Kubernetes gives every container, for each Service in its namespace, ``NAME_SERVICE_HOST``, ``NAME_SERVICE_PORT``, one
``NAME_SERVICE_PORT_...`` for each port with a name, ``NAME_PORT=tcp://...`` and, for each port,
``NAME_PORT_8002_TCP`` with three more (https://kubernetes.io/docs/concepts/services-networking/service/). Docker's
links have all but the first three (of three ports or more in a row, only the first and the last, ``..._START`` and
``..._END``), and ``NAME_NAME`` and ``NAME_ENV_...`` as well. For a Service that is called ``preflight``, or
``preflight-web``, all of them begin like our settings. They are recognised as a set: a single variable that looks like
one of them is a mistake, and is reported as one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_PORT = re.compile(r"(?P<name>.+)_PORT_(?P<number>[0-9]{1,5})_(?P<protocol>TCP|UDP|SCTP)(?P<range>_START)?")
_URL = re.compile(r"(?P<protocol>tcp|udp|sctp)://(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9.]+):(?P<number>[0-9]{1,5})")


def members(environ: Mapping[str, str], prefix: str, settings: Collection[str]) -> list[str]:
    """The variables that begin with ``prefix`` and belong to a service's set, sorted.

    ``settings`` are the variables that mean something to us: of those only a value that is a service's URL is taken,
    so that a setting beside such a set still counts.
    """
    ours = {name: value for name, value in environ.items() if name.startswith(prefix)}
    found: set[str] = set()
    for service, hosts in _services(ours).items():
        for name, value in ours.items():
            rest = name.removeprefix(service)
            if rest != name and _belongs(rest, value, hosts) and (name not in settings or _URL.fullmatch(value)):
                found.add(name)
    for alias in [name.removesuffix("_NAME") for name in ours if name.endswith("_NAME")]:
        # A container without a port is known by its name and its variables.
        linked = {name for name in ours if name == f"{alias}_NAME" or name.startswith(f"{alias}_ENV_")} - {*settings}
        if _is_link(ours, alias) and (len(linked) > 1 or any(name.startswith(f"{alias}_PORT") for name in found)):
            found |= linked
    return sorted(found)


def described(names: Collection[str]) -> str:
    """One line about them, for people; empty if there are none."""
    if not names:
        return ""
    first, *others = names
    more = f" and {len(others)} more like it" if others else ""
    return (
        f"{first}{more} come from a Kubernetes Service or a Docker link, and are ignored: they are not"
        " settings (enableServiceLinks: false in the pod's spec leaves them out)"
    )


def _services(ours: Mapping[str, str]) -> dict[str, set[str]]:
    """The names that two variables agree on, each with the addresses that they give it."""
    services: dict[str, set[str]] = {}
    for name, value in ours.items():
        if name.endswith("_SERVICE_HOST") and ours.get(f"{name.removesuffix('HOST')}PORT", "").isdecimal():
            services.setdefault(name.removesuffix("_SERVICE_HOST"), set()).add(value)
        port, url = _PORT.fullmatch(name), _URL.fullmatch(value)
        if port and url and (port["number"], port["protocol"].lower()) == (url["number"], url["protocol"]):
            host = url["host"].strip("[]")
            if ours.get(f"{name.removesuffix('_START')}_ADDR", host) == host and f"{port['name']}_PORT" in ours:
                services.setdefault(port["name"], set()).add(host)
    return services


def _belongs(rest: str, value: str, hosts: Collection[str]) -> bool:
    """Whether a variable is one of a service's set: what its name has after the service's, and its value."""
    if rest == "_SERVICE_HOST" or re.fullmatch(r"_PORT_[0-9]{1,5}_(TCP|UDP|SCTP)_ADDR", rest):
        return value in hosts
    if re.fullmatch(r"_SERVICE_PORT(_\w+)?|_PORT_[0-9]{1,5}_(TCP|UDP|SCTP)_PORT(_START|_END)?", rest):
        return value.isdecimal()
    if re.fullmatch(r"_PORT(_[0-9]{1,5}_(TCP|UDP|SCTP)(_START|_END)?)?", rest):
        url = _URL.fullmatch(value)
        return url is not None and url["host"].strip("[]") in hosts
    return re.fullmatch(r"_PORT_[0-9]{1,5}_(TCP|UDP|SCTP)_PROTO", rest) is not None and value in ("tcp", "udp", "sctp")


def _is_link(ours: Mapping[str, str], service: str) -> bool:
    """Whether the set is one of Docker's links, which have the path of container and alias: ``/web/preflight``."""
    path = re.fullmatch(r"/[\w.-]+/([\w.-]+)", ours.get(f"{service}_NAME", ""))
    return path is not None and path[1].upper().replace("-", "_") == service
