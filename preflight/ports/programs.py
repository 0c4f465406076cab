"""What an interpreter runs: the arguments of a process named java, python or node say what it is.

Only what names the program counts: a main class, a module, the path of a script or an archive, never what is passed to
it, and never a class path, where the libraries of anybody's application stand.
"""

import itertools
import re
from collections.abc import Iterator, Sequence

_INTERPRETER = re.compile(
    r"(?P<python>(?:python|pypy)[0-9.]*)|(?P<java>java)|(?P<node>node(?:js)?|bun|deno)|(?P<ruby>ruby[0-9.]*)"
)
# Options that take the argument after them, by interpreter.
_WITH_VALUE = {
    "java": (
        "-cp",
        "-classpath",
        "--class-path",
        "-p",
        "--module-path",
        "--add-modules",
        "--add-opens",
        "--add-exports",
    ),
    "python": ("-W", "-X", "-Q", "--check-hash-based-pycs"),
    "node": ("-r", "--require", "--import", "--loader", "--experimental-loader", "-C", "--conditions"),
    "ruby": ("-I", "-r", "-C"),
}
# Options that say that the program comes after them.
_PROGRAM_NEXT = {"java": ("-jar", "-m", "--module"), "python": ("-m",)}
_PROGRAM = {
    "python": re.compile(r"-[A-Za-ln-z]*[cm].*|-|[^-].*", re.DOTALL),
    "node": re.compile(r"-p?e.*|-p|--(?:eval|print)(?:=.*)?|-|[^-].*", re.DOTALL),
}
"""The words with which a program begins: its path, or an option with its text or its name."""
_PROMPTS = ("asyncio", "code")  # modules that are one


def run_by(name: str, argv: Sequence[str]) -> dict[str, set[str]]:
    """For each interpreter that this process is by its ``name`` or its arguments, what the program is called."""
    found: dict[str, set[str]] = {}
    for at, word in enumerate(argv[:2]):  # the second where an interpreter runs a script that is named like one
        kind = _kind(_base(word))
        if not kind:
            break
        found.setdefault(kind, set()).update(_names(kind, argv[at + 1 :]))
    if (kind := _kind(name)) and kind not in found:
        found[kind] = set(_names(kind, argv[1:]))
    return found


def is_prompt(name: str, argv: Sequence[str]) -> bool:
    """Whether this process is Python or Node without a program, or with ``-i``: at a terminal, it has a prompt."""
    kind = _kind(_base(argv[0]) if argv else name)
    if kind not in ("python", "node"):
        return False
    rest = iter(argv[1:])
    for word in rest:
        if word in _WITH_VALUE[kind]:
            next(rest, None)
        elif kind == "python" and re.fullmatch(r"-[bBdEIOPqsSuvx]*i[bBdEiIOPqsSuvx]*", word):
            return True
        elif kind == "python" and word == "-m":
            return next(rest, "") in _PROMPTS
        elif _PROGRAM[kind].fullmatch(word):
            return False
    return True


def _kind(name: str) -> str:
    match = _INTERPRETER.fullmatch(name)
    return next((kind for kind, value in match.groupdict().items() if value), "") if match else ""


def _base(path: str) -> str:
    return path.rpartition("/")[2]


def _names(kind: str, arguments: Sequence[str]) -> Iterator[str]:
    """What a program may be known as, by the arguments of its interpreter."""
    rest = iter(arguments)
    for word in rest:
        if word in _WITH_VALUE[kind]:
            next(rest, None)
        elif word in _PROGRAM_NEXT.get(kind, ()):
            yield from _parts(kind, next(rest, ""))
            return
        elif kind == "java" and (match := re.match(r"-D(solr|kc|es|neo4j|jenkins)\.", word)):
            yield {"es": "elasticsearch"}.get(match[1], match[1])  # what only their own start scripts set
        elif word in ("-c", "-e", "--eval", "-p", "--print"):
            return  # the program itself stands there
        elif not word.startswith("-"):
            yield from _parts(kind, word)
            return


def _parts(kind: str, program: str) -> Iterator[str]:
    base = _base(program)
    if kind == "java":
        archive = re.fullmatch(r"(.+)\.[jw]ar", base)
        # An archive has its version in its name; a class has its owner in its package.
        yield from re.split(r"[-_.\d]+", archive[1].lower()) if archive else re.split(r"[./$]", program.lower())
        if archive:
            yield archive[1].lower()
        return
    yield base
    if kind == "python":
        yield re.sub(r"(?<=[a-z])[\d.]+$", "", base)  # Debian's ipython3
        yield from base.split("-")[:1] if base.startswith(("jupyter-", "jupyterhub-")) else ()
    yield from base.split(".")[:1] if "/" not in program and not program.endswith((".py", ".js", ".rb")) else ()
    if kind == "node":
        yield base.removesuffix(".js").removesuffix(".mjs").removesuffix(".cjs")
        folders = program.split("/")
        # The folders in which editors keep what they start on another machine, and the packages of others.
        yield from (one for one in folders if one.startswith(".") or one.endswith("code-server"))
        yield from (after for before, after in itertools.pairwise(folders) if before == "node_modules")
