"""What an interpreter runs, by its arguments."""

from dataclasses import replace

import pytest

from preflight.ports import programs
from preflight.ports.spared import PROGRAMS
from tests.ports.examples import PROCESS, decide


@pytest.mark.parametrize(
    "name, command, what",
    [
        ("java", "/usr/bin/java -cp /opt/neo4j/lib/* -Xmx1g org.neo4j.server.Neo4jCommunity --home-dir=/x", "neo4j"),
        ("java", "java -Dfile.encoding=UTF-8 -p lib -m org.elasticsearch.server/org.elasticsearch.X", "elasticsearch"),
        ("java", "java -jar /usr/share/java/jenkins.war --httpPort=8002", "jenkins"),
        ("java", "java -Dsolr.solr.home=/var/solr -jar start.jar --module=http", "solr"),
        ("java", "java -cp a.jar kafka.Kafka config/server.properties", "kafka"),
        ("java", "java -jar opensearch-2.19.1.jar", "opensearch"),
        ("java", "java -cp x com.intellij.idea.Main", "an editor (intellij"),
        ("python3.11", "/usr/bin/python3 /usr/bin/supervisord -n", "infrastructure (supervisord"),
        ("python3", "python3 -m vllm.entrypoints.openai.api_server --port 8002", "infrastructure (vllm"),
        ("python3", "python3 -W ignore -m jupyterlab --port 8002", "an interactive session (jupyterlab"),
        ("jupyter-lab", "/v/bin/python /v/bin/jupyter-lab", "an interactive session (jupyter-lab"),
        ("python3", "python3 -S /usr/lib/google-cloud-sdk/lib/gcloud.py start-iap-tunnel", "a tunnel (gcloud"),
        (
            "node",
            "/home/d/.vscode-server/cli/servers/x/server/node /home/d/.vscode-server/x/out/server-main.js",
            "an editor",
        ),
        ("MainThread", "node /usr/lib/node_modules/n8n/bin/n8n", "infrastructure (n8n"),
        ("java", "java -cp x io.confluent.support.metrics.SupportedKafka", "confluent"),
        ("java", "java -jar /opt/metabase/metabase.jar", "metabase"),
        ("java", "java -cp x com.jetbrains.gateway.Main", "an editor (jetbrains"),
        ("python3", "/opt/az/bin/python3 -m azure.cli network bastion tunnel", "a tunnel (azure"),
        ("node", "node /usr/lib/node_modules/node-red/red.js", "infrastructure (node-red"),
        ("qemu-system-x86", "qemu-system-x86_64 -nic user,hostfwd=tcp::8002-:80", "infrastructure (qemu-system-x86_64"),
        ("rabbitmq-server", "rabbitmq-server", "infrastructure (rabbitmq-server"),
        ("adb", "adb -L tcp:5037 fork-server server", "infrastructure (adb"),
        ("rsession", "/usr/lib/rstudio/bin/rsession", "an editor (rsession"),
        ("chromedriver", "chromedriver --port=8002", "a browser (chromedriver"),
        ("wstunnel", "wstunnel client -L tcp://8002:x:80", "it forwards the port for a container or a tunnel"),
        ("java", "/usr/bin/python3 /opt/fake/java -cp x org.neo4j.server.Neo4jCommunity", "neo4j"),
        ("ipython3", "/usr/bin/python3 /usr/bin/ipython3", "an interactive session (ipython"),
        ("idle-python3.12", "/usr/bin/python3 /usr/bin/idle3.12", "an interactive session (idle"),
        ("jupyterhub-sing", "/opt/v/bin/python /opt/v/bin/jupyterhub-singleuser", "an interactive session (jupyterhub"),
        ("python3", "python3 -m debugpy --listen 5678 app.py", "a debugger (debugpy"),
        ("gdbserver", "gdbserver :8002 ./server", "a debugger (gdbserver"),
        ("node", "node /home/d/.kiro-server/bin/x/out/server-main.js", "an editor (.kiro-server"),
        ("ttyd", "ttyd -p 8002 bash", "infrastructure (ttyd"),
        ("vcluster", "vcluster connect one", "it forwards the port for a container or a tunnel"),
    ],
)
def test_what_is_left_alone(name: str, command: str, what: str) -> None:
    """Infrastructure, editors, tunnels and sessions that an interpreter runs."""
    refusal = decide(replace(PROCESS, name=name, argv=tuple(command.split())))
    assert refusal is not None
    assert what in refusal[0]


@pytest.mark.parametrize(
    "name, command",
    [
        ("java", "java -cp lib/kafka-clients.jar:lib/neo4j-driver.jar com.example.Server neo4j kafka"),
        ("java", "java -jar my-app.jar --spring.kafka=neo4j"),
        ("java", "java"),
        ("python3", "python3 redis-server.py postgres"),
        ("python3", "python3 app.py supervisord"),
        ("python3", "python3 -c import(supervisord)"),
        ("python3", "python3 -m http.server -m jupyter"),
        ("node", "node server.js n8n"),
        ("node", "node /home/d/n8n-clone/server.js"),
        ("neo4j-tool", "./neo4j-tool java org.neo4j.X"),
        ("python3", "python3 -Wignore server.py -i"),
        ("python3", "python3 my-jupyter-proxy.py"),
        ("python3", "python3"),
    ],
)
def test_what_only_names_it(name: str, command: str) -> None:
    """What is passed to a program, or stands in a class path, does not make it that."""
    assert decide(replace(PROCESS, name=name, argv=tuple(command.split()))) is None


@pytest.mark.parametrize(
    "name, argv, prompt",
    [
        ("python3", ["python3"], True),
        ("python3", ["python3", "-X", "dev", "-qi", "server.py"], True),
        ("python3", ["python3", "-m", "code"], True),
        ("python3", ["python3", "-m", "code.server"], False),
        ("python3", ["python3", "-mshop"], False),
        ("python3", ["python3", "-Bcpass"], False),
        ("python3", ["python3", "-"], False),
        ("python3", ["gunicorn: master [shop]"], False),
        ("node", ["node"], True),
        ("node", ["node", "--eval=serve()"], False),
        ("node", ["node", "-pe", "serve()"], False),
        ("bash", ["bash"], False),
    ],
)
def test_prompts(name: str, argv: list[str], *, prompt: bool) -> None:
    """An interpreter without a program; a program is one however it is given."""
    assert programs.is_prompt(name, argv) == prompt


def test_programs_of_the_settings() -> None:
    """A name in port_spare may be that of a script."""
    from preflight.ports import INFRASTRUCTURE, Policy

    process = replace(PROCESS, name="python3", argv=("python3", "/opt/x/bin/our-tool", "serve"))
    assert decide(process) is None
    refusal = decide(process, policy=Policy(spare=INFRASTRUCTURE | {"our-tool"}))
    assert refusal is not None
    assert "our-tool, run by python" in refusal[0]


def test_the_data() -> None:
    """Every interpreter of the table is one that is recognised."""
    assert {interpreter for interpreter, _kind in PROGRAMS} == {"java", "python", "node", "ruby"}
    for interpreter, _kind in PROGRAMS:
        assert interpreter in programs.run_by(interpreter, (interpreter, "x"))
