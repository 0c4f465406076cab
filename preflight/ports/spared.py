"""Names of processes that are never stopped for a port, as data.

A name is what the kernel calls the process (`/proc/PID/comm`, `ps -o comm`) or the file name of its first
argument. The kernel keeps 15 characters on Linux; the comparison in `policy` knows that.
"""

_DATA_STORES = (
    "postgres postmaster pgbouncer mysqld mariadbd redis-server valkey-server redis-sentinel mongod mongos"
    " memcached clickhouse-server influxd etcd cockroach qdrant weaviate neo4j minio beam.smp nats-server"
)
_WEB_SERVERS = "nginx apache2 httpd haproxy traefik envoy caddy"
_SYSTEM = (
    "systemd launchd init inetd xinetd sshd dnsmasq named systemd-resolved cupsd Xorg Xwayland ControlCenter rapportd"
)
_CONTAINERS = "dockerd containerd containerd-shim containerd-shim-runc-v2 podman crio conmon kubelet kube-apiserver k3s"
_OPERATIONS = "consul vault prometheus grafana"

INFRASTRUCTURE: frozenset[str] = frozenset(
    f"{_DATA_STORES} {_WEB_SERVERS} {_SYSTEM} {_CONTAINERS} {_OPERATIONS}".split()
)

_DOCKER = "docker stop $(docker ps -q --filter publish={port})"
_PODMAN = "podman stop $(podman ps -q --filter publish={port})"
_SSH = "kill {pid}  # ends the SSH session that forwards the port"

FORWARDERS: dict[str, str] = {
    # A forwarder holds the port for somebody behind it: stopping it breaks the container or the tunnel and
    # often everything else it forwards (docker/cli#2898). The value is what a person can do instead.
    "docker-proxy": _DOCKER,
    "com.docker.backend": _DOCKER,
    "com.docker.vpnkit": _DOCKER,
    "vpnkit": _DOCKER,
    "vpnkit-bridge": _DOCKER,
    "OrbStack": _DOCKER,
    "OrbStack Helper": _DOCKER,
    "limactl": _DOCKER,
    "rootlesskit": _DOCKER,
    "rootlessport": _PODMAN,
    "slirp4netns": _PODMAN,
    "pasta": _PODMAN,
    "pasta.avx2": _PODMAN,
    "passt": _PODMAN,
    "gvproxy": _PODMAN,
    "wslrelay": "stop the program inside WSL that listens on port {port}",
    "wslrelay.exe": "stop the program inside WSL that listens on port {port}",
    "kubectl": "kill {pid}  # ends the port forwarding",
    "ssh": _SSH,
    "autossh": _SSH,
    "sshd-session": _SSH,
}
