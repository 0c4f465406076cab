"""Programs that are never stopped for a port, as data.

A name is what the kernel calls the process (`/proc/PID/comm`, `ps -o comm`) or the file name of its first
argument. The kernel keeps 15 characters on Linux; the comparison in `policy` knows that. What an interpreter runs has
names of its own (`programs`).
"""

_DATA_STORES = (
    "ollama llama-server tritonserver"
    " postgres postmaster pgbouncer mysqld mariadbd redis-server valkey-server redis-sentinel mongod mongos"
    " memcached clickhouse-server influxd etcd cockroach qdrant weaviate neo4j minio beam.smp nats-server"
)
_WEB_SERVERS = "nginx apache2 httpd haproxy traefik envoy caddy"
_SYSTEM = (
    "systemd launchd init inetd xinetd sshd dnsmasq named systemd-resolved cupsd Xorg Xwayland ControlCenter rapportd"
)
_CONTAINERS = "dockerd containerd containerd-shim containerd-shim-runc-v2 podman crio conmon kubelet kube-apiserver k3s"
_OPERATIONS = "consul vault prometheus grafana PM2"

INFRASTRUCTURE: frozenset[str] = frozenset(
    f"{_DATA_STORES} {_WEB_SERVERS} {_SYSTEM} {_CONTAINERS} {_OPERATIONS}".split()
)

_EDITORS = (
    "code code-insiders code-oss codium vscodium code-server code-tunnel cursor windsurf zed zed-editor zeditor subl"
    " sublime_text emacs vim nvim gvim vi nano hx helix kak micro kate gedit atom fleet idea pycharm webstorm phpstorm"
    " goland clion rider rubymine datagrip rustrover eclipse Electron"
)
EDITORS: frozenset[str] = frozenset(_EDITORS.split()) | {
    "Code Helper", "Code Helper (Plugin)", "Code Helper (Renderer)", "Code - Insiders", "Cursor", "Cursor Helper",
    "Cursor Helper (Plugin)", "Cursor Helper (Renderer)", "Windsurf", "Windsurf Helper (Plugin)",
}  # fmt: skip

_BROWSERS = (
    "firefox firefox-bin firefox-esr GeckoMain librewolf waterfox chrome google-chrome google-chrome-stable chromium"
    " chromium-browser chrome-headless-shell headless_shell brave brave-browser msedge microsoft-edge opera vivaldi"
    " vivaldi-bin epiphany falkon qutebrowser tor-browser Safari thunderbird"
)
BROWSERS: frozenset[str] = frozenset(_BROWSERS.split()) | {
    "Google Chrome", "Google Chrome Helper", "Microsoft Edge", "Brave Browser",
}  # fmt: skip

_DOCKER = "docker stop $(docker ps -q --filter publish={port})"
_PODMAN = "podman stop $(podman ps -q --filter publish={port})"
_SSH = "kill {pid}  # ends the SSH session that forwards the port"

_TUNNELS = (
    "cloud-sql-proxy cloud_sql_proxy alloydb-auth-proxy session-manager-plugin cloudflared ngrok frpc frps chisel bore"
    " tailscaled tailscale openvpn stunnel stunnel4 sshuttle mosh-server tsh teleport telepresence boundary kubefwd oc"
    " k9s devtunnel zrok gost xray v2ray sing-box mitmproxy mitmdump mitmweb flyctl socat rinetd"
)

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
    **dict.fromkeys(_TUNNELS.split(), "kill {pid}  # ends the tunnel"),
    "ssh": _SSH,
    "autossh": _SSH,
    "sshd-session": _SSH,
}

_JUPYTER = "jupyter jupyter-lab jupyter-notebook jupyter-server jupyterhub jupyterlab notebook ipykernel"
_JAVA = (
    "neo4j elasticsearch opensearch kafka zookeeper cassandra solr activemq artemis hbase hadoop flink druid trino"
    " presto pulsar hazelcast ignite keycloak kc jenkins nexus sonar sonarqube logstash nifi catalina wildfly jboss"
    " dynamodb dynamodbv2 dynamodblocal"
)
_PYTHON = (
    "supervisord patroni airflow superset pgadmin4 salt-master salt-minion salt-api carbon-cache chroma vllm"
    " fail2ban-server docker-compose"
)
_REMOTE_EDITORS = (
    ".vscode-server .vscode-server-insiders .vscode-remote .cursor-server .windsurf-server .vscodium-server code-server"
    " vscode-server openvscode-server"
)

PROGRAMS: dict[tuple[str, str], frozenset[str]] = {
    # What an interpreter runs and is left alone: by the interpreter, and by what it is.
    (interpreter, kind): frozenset(names.split())
    for interpreter, kind, names in (
        ("java", "infrastructure", _JAVA),
        ("java", "an editor", "intellij eclipse"),
        ("python", "infrastructure", _PYTHON),
        ("python", "a tunnel", "sshuttle mitmproxy mitmdump mitmweb gcloud gcloud.py aws"),
        ("python", "an interactive session", f"{_JUPYTER} ipykernel_launcher ipython IPython idlelib idle pgcli"),
        ("node", "infrastructure", "n8n verdaccio pm2"),
        ("node", "a tunnel", "localtunnel lt ngrok"),
        ("node", "an editor", _REMOTE_EDITORS),
        ("ruby", "infrastructure", "puppet fluentd"),
    )
}
