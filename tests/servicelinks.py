"""Variables that platforms give to a container for each service beside it."""

from __future__ import annotations


def kubernetes(
    name: str, host: str = "10.96.0.7", port: int = 8002, protocol: str = "TCP", **more: str
) -> dict[str, str]:
    """What kubelet gives to a container (pkg/kubelet/envvars/envvars.go)."""
    at = f"[{host}]" if ":" in host else host
    url = f"{protocol.lower()}://{at}:{port}"
    one = f"{name}_PORT_{port}_{protocol}"
    return {
        f"{name}_SERVICE_HOST": host,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_PORT": url,
        one: url,
        f"{one}_PROTO": protocol.lower(),
        f"{one}_PORT": str(port),
        f"{one}_ADDR": host,
        **{f"{name}_{key}": value for key, value in more.items()},
    }


def docker(name: str, host: str = "172.17.0.5", port: int = 5432) -> dict[str, str]:
    """What ``docker run --link`` gives to a container."""
    url, one = f"tcp://{host}:{port}", f"{name}_PORT_{port}_TCP"
    return {
        f"{name}_PORT": url, one: url, f"{one}_PROTO": "tcp", f"{one}_PORT": str(port), f"{one}_ADDR": host,
        f"{name}_NAME": f"/web/{name.lower()}", f"{name}_ENV_PG_MAJOR": "17", f"{name}_ENV_LANG": "C",
    }  # fmt: skip


def docker_range(name: str, first: int = 8002, last: int = 8004, host: str = "172.17.0.5") -> dict[str, str]:
    """The same, of a container with ports in a row: three or more are told of by the first and the last."""
    one = f"{name}_PORT_{first}_TCP"
    return {
        f"{name}_PORT": f"tcp://{host}:{first}", f"{one}_START": f"tcp://{host}:{first}", f"{one}_ADDR": host,
        f"{one}_PROTO": "tcp", f"{one}_PORT_START": str(first), f"{one}_END": f"tcp://{host}:{last}",
        f"{one}_PORT_END": str(last), f"{name}_NAME": f"/web/{name.lower()}",
    }  # fmt: skip
