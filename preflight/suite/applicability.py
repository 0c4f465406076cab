"""Which requirements a run leaves out, because of its settings or its kind, and why."""

from __future__ import annotations

from preflight import commands
from preflight.contract import Declaration
from preflight.settings import places
from preflight.settings.model import ENV_FILE, ENVIRONMENT, Settings


def left_out(declared: Declaration, settings: Settings, *, takes_port: bool) -> str:
    """Why the requirement does not apply, for people; empty if it does. ``takes_port``: a worker of ours will serve."""
    if declared.service.casefold() in settings.unused:
        return f"not used ({named_by(settings, 'not_used')})"
    if settings.demo and declared.needs & {"network", "env_file", "keys"}:
        return "left out by --demo"
    if settings.offline and "network" in declared.needs:
        return "left out by --offline"
    if "agent" in declared.needs and not settings.serves_agent:
        return f"it concerns the agent server, but {settings.app or 'no application'} is served"
    if "web" in declared.needs and not settings.serves_agent and not settings.prefix:
        return "web_prefix is off: the preflight serves nothing beside the application"
    if "notify" in declared.needs and not settings.notify:
        place = places.of(settings, "PREFLIGHT_NOTIFY")
        found = f"empty in the environment{place.hiding}" if place.in_environment else "not set"
        return f"PREFLIGHT_NOTIFY is {found}: notifications are off"
    if "database" in declared.needs and not settings.database_url:
        return "PREFLIGHT_DATABASE_URL is not set: this instance is not part of a fleet"
    if "tables" in declared.needs and not settings.database_tables:
        return "the application keeps nothing in the database"
    if "tls" in declared.needs and not any(name.startswith("ssl_") for name in settings.sources):
        return "plain HTTP is served: ssl_certfile is not set"
    if "log_config" in declared.needs and settings.log_config is None:
        return "log_config is not set"
    if "port" in declared.needs and not takes_port:
        return f"started without {commands.name()}: the server takes its port itself"
    return ""


def named_by(settings: Settings, setting: str) -> str:
    """The source of this setting, for messages: the option, the variable, or the file."""
    source = settings.sources.get(setting, "")
    variable = f"PREFLIGHT_{setting.upper()}"
    return {
        f"option --{setting}": f"--{setting}",
        ENVIRONMENT: variable,
        ENV_FILE: f"{variable} in the env file",
    }.get(source, source)
