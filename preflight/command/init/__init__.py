"""``--init``: add to a project what the preflight needs to guard it; never replace anything.

1. `writing.pyproject` reads pyproject.toml, and refuses one that cannot be added to.
2. `survey` says what the project's files say. `folder` finds and reads them; `facts` has what one Python file says, by
   its syntax tree (`source`): its `applications`, its `variables`, its `paths`. Nothing of the project is imported, and
   no value of a variable is read.
3. `requirement` makes a first requirement of that: a function for each kind of thing that a survey finds.
4. `texts` has the text of every file, `project` decides which of them are missing, `writing` writes them.

In this project's own checkout, whose agent server has its keys in an env file, it is that file which `envfile` writes.
"""
