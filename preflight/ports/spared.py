"""Programs that are never stopped for a port, as data.

A name is what the kernel calls the process (`/proc/PID/comm`, `ps -o comm`) or the file name of its first
argument. The kernel keeps 15 characters on Linux; the comparison in `policy` knows that. What an interpreter runs has
names of its own (`programs`).
"""

_DATA_STORES = (
    "ollama llama-server llama-box tritonserver vllm localai lm-studio lms"
    " postgres postmaster pgbouncer mysqld mariadbd redis-server valkey-server redis-sentinel mongod mongos"
    " memcached clickhouse-server influxd etcd cockroach qdrant weaviate neo4j minio beam.smp nats-server"
    " rabbitmq-server mosquitto emqx couchdb arangod dgraph surreal scylla tidb-server tikv-server meilisearch"
    " typesense typesense-server clickhouse influxdb3 keydb-server dragonfly milvus chroma dolt edgedb-server"
    " gel-server sqlservr tarantool memgraph rqlited sqld immudb fdbserver yb-master yb-tserver pd-server"
    " risingwave ferretdb pocketbase weed graphql-engine postgrest pgcat pgpool odyssey proxysql temporal"
    " temporal-server llama-swap llamafile text-generation-router mailpit"
)
_WEB_SERVERS = "nginx apache2 httpd lighttpd haproxy traefik envoy caddy squid varnishd php-fpm"
_SYSTEM = (
    "systemd launchd init inetd xinetd sshd dropbear dnsmasq named unbound coredns systemd-resolved avahi-daemon"
    " rpcbind chronyd cupsd smbd nmbd vsftpd dovecot Xorg Xwayland Xvnc Xtigervnc x11vnc xrdp gnome-remote-desktop"
    " ControlCenter rapportd adb syncthing tmux screen SCREEN zellij ttyd gotty tmate upterm sshx etserver"
    " websockify guacd cockpit-ws"
)
_CONTAINERS = "dockerd containerd containerd-shim containerd-shim-runc-v2 podman crio conmon kubelet kube-apiserver k3s"
_MACHINES = (
    "buildkitd incusd lxd libvirtd virtqemud multipassd firecracker VBoxHeadless VirtualBoxVM VBoxNetNAT vmware-vmx"
    " qemu-system-x86_64 qemu-system-aarch64 qemu-system-arm qemu-system-riscv64 qemu-kvm cloud-hypervisor vfkit"
    " krunkit"
)
_OPERATIONS = (
    "consul vault nomad prometheus node_exporter alertmanager grafana grafana-server loki promtail otelcol telegraf"
    " jaeger gitea forgejo supervisord runsvdir PM2 otelcol-contrib victoria-metrics vmagent"
)

INFRASTRUCTURE: frozenset[str] = frozenset(
    f"{_DATA_STORES} {_WEB_SERVERS} {_SYSTEM} {_CONTAINERS} {_MACHINES} {_OPERATIONS}".split()
)

_EDITORS = (
    "code code-insiders code-oss codium vscodium code-server code-tunnel cursor windsurf zed zed-editor zeditor subl"
    " sublime_text emacs vim nvim gvim vi nano hx helix kak micro kate gedit atom fleet idea pycharm webstorm phpstorm"
    " goland clion rider rubymine datagrip rustrover dataspell eclipse Electron android-studio positron trae"
    " neovide lapce theia rstudio rserver rsession"
)
EDITORS: frozenset[str] = frozenset(_EDITORS.split()) | {
    "Code Helper", "Code Helper (Plugin)", "Code Helper (Renderer)", "Code - Insiders", "Cursor", "Cursor Helper",
    "Cursor Helper (Plugin)", "Cursor Helper (Renderer)", "Windsurf", "Windsurf Helper (Plugin)",
}  # fmt: skip

_BROWSERS = (
    "firefox firefox-bin firefox-esr GeckoMain librewolf waterfox chrome google-chrome google-chrome-stable chromium"
    " chromium-browser chrome-headless-shell headless_shell brave brave-browser msedge microsoft-edge opera vivaldi"
    " vivaldi-bin epiphany falkon qutebrowser tor-browser zen zen-bin floorp Safari thunderbird chromedriver"
    " geckodriver"
)
BROWSERS: frozenset[str] = frozenset(_BROWSERS.split()) | {
    "Google Chrome", "Google Chrome Helper", "Microsoft Edge", "Brave Browser",
}  # fmt: skip

DEBUGGERS = frozenset({"gdb", "gdbserver", "lldb", "lldb-server", "dlv"})

_DOCKER = "docker stop $(docker ps -q --filter publish={port})"
_PODMAN = "podman stop $(podman ps -q --filter publish={port})"
_SSH = "kill {pid}  # ends the SSH session that forwards the port"

_TUNNELS = (
    "cloud-sql-proxy cloud_sql_proxy alloydb-auth-proxy session-manager-plugin cloudflared ngrok frpc frps chisel bore"
    " tailscaled tailscale openvpn stunnel stunnel4 sshuttle mosh-server tsh teleport telepresence boundary kubefwd oc"
    " k9s devtunnel zrok gost xray v2ray sing-box mitmproxy mitmdump mitmweb flyctl socat rinetd wstunnel inlets"
    " ktunnel rathole hysteria clash mihomo ss-local sslocal tor privoxy warp-svc netbird zerotier-one wireproxy"
    " minikube skaffold tilt istioctl linkerd argocd fly pscale gh coder devpod vcluster okteto mirrord devspace"
    " hubble cilium sdm tbot plink"
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

_MANAGERS = "supervisord circusd pm2 pm2-runtime PM2 runsv s6-supervise supervise supervise-daemon perpd dinit"
MANAGERS = frozenset(_MANAGERS.split())
"""Supervisors: they start anybody's programs, and start them again when they have ended."""

DAEMONS = frozenset({"anacron", "atd", "cron", "crond", "cronie", "ssh", "sshd"})
JOBS = frozenset(f"{name}.service" for name in DAEMONS)
"""Services that start other people's commands and leave them alone: to stop the service ends none of these."""

_NOTEBOOKS = (
    "jupyter jupyter-lab jupyter-notebook jupyter-nbclassic jupyter-server jupyterhub jupyterlab notebook nbclassic"
    " ipykernel marimo voila"
)
_JAVA = (
    "neo4j elasticsearch opensearch kafka zookeeper cassandra solr activemq artemis hbase hadoop flink druid trino"
    " presto pulsar hazelcast ignite keycloak kc jenkins nexus sonar sonarqube logstash nifi catalina wildfly jboss"
    " dynamodb dynamodbv2 dynamodblocal confluent spark metabase openfire artifactory gerrit zipkin nacos rocketmq"
)
_PYTHON = (
    "supervisord patroni airflow superset pgadmin4 salt-master salt-minion salt-api carbon-cache chroma vllm"
    " fail2ban-server docker-compose mlflow tuned circusd localstack websockify"
)
_REMOTE_EDITORS = (
    ".vscode-server .vscode-server-insiders .vscode-server-oss .vscode-remote .cursor-server .windsurf-server"
    " .vscodium-server .trae-server .kiro-server .positron-server .antigravity-server code-server vscode-server"
    " openvscode-server"
)

PROGRAMS: dict[tuple[str, str], frozenset[str]] = {
    # What an interpreter runs and is left alone, by the interpreter and the kind of program.
    (interpreter, kind): frozenset(names.split())
    for interpreter, kind, names in (
        ("java", "infrastructure", _JAVA),
        ("java", "an editor", "intellij jetbrains eclipse"),
        ("python", "infrastructure", _PYTHON),
        ("python", "a tunnel", "sshuttle sshtunnel mitmproxy mitmdump mitmweb gcloud gcloud.py aws azure"),
        (
            "python",
            "an interactive session",
            f"{_NOTEBOOKS} ipykernel_launcher ipython IPython bpython ptpython idlelib idle pgcli spyder",
        ),
        ("python", "a debugger", "pdb ipdb pudb debugpy"),
        ("node", "infrastructure", "n8n verdaccio pm2 node-red configurable-http-proxy"),
        ("node", "a tunnel", "localtunnel lt ngrok"),
        ("node", "an editor", _REMOTE_EDITORS),
        ("ruby", "infrastructure", "puppet fluentd"),
    )
}
