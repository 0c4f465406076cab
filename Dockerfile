# The agent server, guarded: it starts only if every critical requirement holds.
#   docker build -t preflight .
# docs/fleet.md says how to run it, and deploy/ has compose and Kubernetes. For another application,
# `preflight --init docker` writes a Dockerfile.

# The same Debian and the same Python in both stages: the environment refers to the interpreter by its path.
FROM python:3.13-slim-trixie AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /app
COPY requirements.txt ./
# Without pip in the environment: a container installs nothing. What is installed is compiled now, because the root file
# system cannot be written later.
RUN python -m venv --without-pip .venv \
    && python -m pip --python .venv/bin/python install --require-hashes --compile -r requirements.txt
COPY pyproject.toml pytest.ini conftest.py run.py ./
COPY preflight preflight
COPY server server
RUN .venv/bin/python -m compileall -q run.py conftest.py preflight server

FROM python:3.13-slim-trixie
LABEL org.opencontainers.image.title="Preflight" \
      org.opencontainers.image.description="An agent server that starts only if every critical requirement holds" \
      org.opencontainers.image.licenses="MIT"
# A number, not a name: Kubernetes needs it to see that the user is not root (runAsNonRoot). The code belongs to root, so
# the server cannot change it.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /nonexistent server \
    && install -d -o server -g server -m 0700 /var/lib/preflight
WORKDIR /app
COPY --from=build /app /app
# Clients outside a container reach only 0.0.0.0, and a server that others can reach needs PREFLIGHT_TOKEN. Reports,
# history and sessions are below the volume; nothing else is written but the runtime folder in /tmp.
ENV PREFLIGHT_HOST=0.0.0.0 \
    PREFLIGHT_STATE_DIR=/var/lib/preflight/state \
    PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME ["/var/lib/preflight"]
EXPOSE 8002
# For Docker and compose; Kubernetes has probes of its own. It never runs the suite: the answer is in memory.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["/app/.venv/bin/python", "-I", "-c", "import os, urllib.request as web; web.urlopen(f\"http://127.0.0.1:{os.environ.get('PREFLIGHT_PORT') or 8002}/health/ready\", timeout=4)"]
# As a list of words, the command is the container's first process: it gets the signal of `docker stop` and drains. What
# follows the image's name are options: docker run ... preflight --check-only
STOPSIGNAL SIGTERM
ENTRYPOINT ["/app/.venv/bin/python", "/app/run.py"]
