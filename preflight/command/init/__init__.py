"""``--init``: add to a project what the preflight needs to guard it; never replace anything.

1. `writing.pyproject` reads pyproject.toml, and refuses one that cannot be added to.
2. `survey` says what the project's files say. `folder` finds and reads them; `facts` has what one Python file says, by
   its syntax tree (`source`): its `applications`, its `variables`, its `paths`. Nothing of the project is imported, and
   no value of a variable is shown.
3. `requirement` makes a first requirement of that: a function for each kind of thing that a survey finds. `proposals`
   has ready-made ones for the services that the files name, which are written as comments: `addresses` says where a
   variable leads, and `compose` what a compose file runs.
4. `texts` has the text of every file, `project` decides which of them are missing, `writing` writes them.

In this project's own checkout, `envfile` writes the env file with the keys of the agent server instead.
"""

from preflight import project as projects
from preflight.command.options import Invocation
from preflight.output import plainlines
from preflight.settings.model import Settings


def run(invocation: Invocation, settings: Settings) -> int:
    """Do what ``--init`` is for in the folder where it was typed; returns the exit code."""
    found = projects.of_command()
    if found.root == projects.CHECKOUT:
        from preflight.command.init import envfile

        if invocation.init != "project":
            plainlines.error(
                f"--init {invocation.init} is for a project of your own, but this is the preflight's own checkout:"
                " run it in your project's folder"
            )
            return 2
        return envfile.run(settings, dry_run=invocation.dry_run)
    if found.problem:
        plainlines.error(f"{found.problem}: no project would be run from there; {found.advice}")
        return 1
    from preflight.command.init import project

    return project.run(
        found.root, found.folder, invocation.init, dry_run=invocation.dry_run, verbose=invocation.verbose
    )
