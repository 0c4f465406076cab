"""The settings, the source of each value, and whether a value is valid.

1. `envfile` reads the env file with python-dotenv; nothing in it is executed, and no message quotes it.
2. `servicelinks` recognises the variables that a platform injects, which are not settings.
3. `table` has one line for each setting, with its default and its parser (`parsers`); `fields` makes such a line.
   `sources` has what was read beyond them, and `model` adds what follows from the values.
4. `loading` reads pyproject.toml, env file, environment and options, in this order, and returns one frozen `Settings`.
   `places` names the source of a variable, so that people can correct it.
5. `template` is the env file that `--init` writes, and recognises a placeholder that nobody has filled in.

Requirements annotate their fixture with `Settings`. This package runs in every process, and knows nothing of
requirements, servers or reports.
"""

from preflight.settings.model import Settings

__all__ = ["Settings"]
