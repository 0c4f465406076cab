"""What can be set, where each value came from, and whether it is a good one.

1. `envfile` reads the env file with python-dotenv; nothing in it is executed, and no message quotes it.
2. `servicelinks` recognises the variables that a platform injects, which are nobody's settings.
3. `model` is the table: one line for each setting, with its default and its parser (`parsers`).
4. `loading` reads pyproject.toml, env file, environment and options, in this order, and hands out one frozen
   `Settings`. `places` names where a variable came from, for whoever has to mend it.
5. `template` is the env file that `--init` writes, and tells a value that nobody has filled in.

Requirements annotate their fixture with `Settings`. All of this runs in every process, and knows nothing of
requirements, servers or reports.
"""

from preflight.settings.model import Settings

__all__ = ["Settings"]
