"""The embedded model: a small deterministic chat model for a server without a key.

It is no language model. It knows the questions that people ask a server about itself, picks the tool that answers
them, and puts the tool's answer into words. What it does depends on the person's own message alone: text inside a
tool's result is shown and never obeyed.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCall, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable

from preflight import commands
from preflight.text import address
from preflight.times import local_of
from server.agent.tools import from_data

PIECE = 80  # characters of a streamed piece, about
HELP = """I can tell you about this server, from its own preflight report:
- what failed and why it did not start ("what failed?"), and what is only a warning
- how to fix a check ("how do I fix Python Version?")
- which keys are loaded and where the others go ("which key is missing?")
- who listens on a port ("what is on 8002?")
- how a check fared before ("history of Server Port")
- status, versions and uptime"""
NATURE = "I am this server's embedded model: a fixed set of answers, no language model."

# The first that matches wins; each is tried on the message in small letters.
_DEEDS = r"(kill|stop|terminate|delete|remove|shut ?down|restart|install|free|run|execute|write (to |a |the )*file)"
INTENTS: tuple[tuple[str, str], ...] = (
    (
        "rerun",
        r"\bre-?run\b|\bcheck again\b|\b(run|do|repeat) (all |the )*(checks?|suite|diagnostics|tests?|preflight)\b",
    ),
    ("history", r"\bhistory\b|\bflap|\blast time\b|\bpast runs?\b|\bbefore\b.{0,100}\bfail"),
    ("research", r"^(please )?(research|search|look up|google)\b|\b(on|in) the (web|internet)\b"),
    ("stop", rf"^(please |now )?{_DEEDS}\b|\b(can|could|will|would) you (please )?{_DEEDS}\b"),
    ("fix", r"\b(fix|repair|solve|mend|resolve|correct)\b"),
    ("explain", r"^(please )?(explain|tell me about)\b"),
    (
        "port",
        r"\b(ports?|unix sockets?)\b|\blisten|\b(on|uses?|using|holds?|blocks?|occupies) :?\d{2,5}\b|:\d{2,5}\b",
    ),
    ("keys", r"\bkeys?\b|api_key|\bcredentials?\b|\btokens?\b"),
    ("warnings", r"\bwarn"),
    ("failed", r"\bfail|\bwrong\b|\bbroken?\b|\berrors?\b|\bproblems?\b|\bissues?\b|\bcritical\b|\bwhy\b|\bred\b"),
    ("versions", r"\bversions?\b|\bpython\b|\bpackages?\b|\bdependenc"),
    ("uptime", r"\buptime\b|\bhow long\b|\bsince when\b|\brestart|\bpid\b"),
    (
        "status",
        r"\bstatus\b|\bhealth|\bstate\b|\bready\b|\bok(ay)?\b|\bhow are you\b|\bchecks?\b|\breport\b|\bsummary\b",
    ),
    ("help", r"\bhelp\b|\bwhat can you\b|\bwho are you\b|\bwhat are you\b|^(hi|hello|hey)\b"),
    ("explain", r"\bexplain\b|\btell me about\b|\bwhat (is|does|means?)\b"),
)
_NOISE = re.compile(
    r"\b(how|do|does|did|can|could|should|would|i|we|you|to|the|a|an|is|are|was|it|this|that|my|our|please|me|tell|about|what"
    r"|explain|fix|repair|solve|mend|resolve|correct|history|of|for|show|in|with|check|past|runs?|last|time|need|want|and|error)\b"
)


def intent(question: str) -> str:
    """The intent of a question: one of INTENTS' names, or "unknown"."""
    text = question.lower()
    return next((name for name, pattern in INTENTS if re.search(pattern, text)), "unknown")


def subject(question: str) -> str:
    """A question without its small words: the name that it is about, if any."""
    return " ".join(_NOISE.sub(" ", re.sub(r"[^\w\s]", " ", question.lower())).split())


def plan(question: str, offered: set[str]) -> list[tuple[str, dict[str, Any]]]:
    """The tools that answer a question, of those on offer."""
    asked, name = intent(question), subject(question)
    calls: list[tuple[str, dict[str, Any]]] = []
    if asked == "port":
        number = re.search(r"(?<![\d.])\d{2,5}(?![\d.])", question)
        calls = [("port_status", {"port": int(number[0])} if number and 0 < int(number[0]) < 65536 else {})]
    elif asked == "history" and name:
        calls = [("check_history", {"name": name})]
    elif asked in ("fix", "explain") and name:
        calls = [("explain_check", {"name": name})]
    elif asked == "rerun":
        calls = [("start_rerun", {})]
    elif asked not in ("help", "research", "stop", "unknown"):
        calls = [("read_report", {})]
    return [(tool, arguments) for tool, arguments in calls if tool in offered]


class EmbeddedModel(BaseChatModel):
    """See the module. With tools bound, it calls the one that answers the question; with their results, it answers."""

    @property
    def _llm_type(self) -> str:
        return "embedded"

    def bind_tools(
        self, tools: Sequence[Any], *, tool_choice: str | None = None, **kwargs: Any
    ) -> Runnable[LanguageModelInput, AIMessage]:
        return self.bind(tools=list(tools), tool_choice=tool_choice, **kwargs)

    def _reply(self, messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]]) -> AIMessage:
        last = max((i for i, one in enumerate(messages) if isinstance(one, HumanMessage)), default=-1)
        question = messages[last].text if last >= 0 else ""
        results = [one for one in messages[last + 1 :] if isinstance(one, ToolMessage)]
        offered = {tool["function"]["name"] for tool in tools}
        if not offered:
            return AIMessage(answer(question, {one.name or "": from_data(one.text) for one in results}))
        calls: list[tuple[str, dict[str, Any]]] = []
        if "ask_diagnostics" in offered:  # the supervisor's question
            asked = intent(question)
            if asked == "research":
                calls = [("ask_research", {"query": question})]
            elif asked not in ("help", "stop", "unknown"):
                calls = [("ask_diagnostics", {"question": question})]
        elif not results:
            calls = plan(question, offered)
        called = [ToolCall(name=name, args=arguments, id=f"call_{uuid.uuid4().hex}") for name, arguments in calls]
        return AIMessage("", tool_calls=called)

    def _generate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=self._reply(messages, kwargs.get("tools") or ()))])

    async def _agenerate(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> ChatResult:
        return self._generate(messages, **kwargs)  # no thread: it waits for nothing

    def _stream(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> Iterator[ChatGenerationChunk]:
        reply = self._reply(messages, kwargs.get("tools") or ())
        for piece in pieces(reply.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
        calls: list[Any] = [
            {"name": call["name"], "args": "{}", "id": call["id"], "index": number, "type": "tool_call_chunk"}
            for number, call in enumerate(reply.tool_calls)
        ]
        end = {"finish_reason": "tool_calls" if calls else "stop"}
        yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=calls, response_metadata=end))

    async def _astream(self, messages: list[BaseMessage], *_: Any, **kwargs: Any) -> AsyncIterator[ChatGenerationChunk]:
        for chunk in self._stream(messages, **kwargs):
            yield chunk


def pieces(text: str) -> list[str]:
    """The text in pieces of about PIECE characters, cut after white space; together they are the text."""
    return re.findall(rf"(?s).{{1,{PIECE}}}(?:\s+|$)|\S+\s*", text)


# Putting results into words. Each gets what its tool returned.

Results = Mapping[str, Any]


def answer(question: str, results: Results) -> str:
    """The answer to a question, from the results of the tools that were asked for it."""
    asked = intent(question)
    broken = [result["error"] for result in results.values() if isinstance(result, dict) and set(result) == {"error"}]
    if broken:
        return f"I cannot answer that: {'; '.join(map(str, broken))}."
    if asked in SAYINGS:
        for tool, say in SAYINGS[asked]:
            result = results.get(tool)
            if isinstance(result, dict):
                return say(result)
    if asked == "help":
        return f"{NATURE}\n{HELP}"
    if asked == "stop":
        return (
            f"I change nothing on this machine: I stop no process, write no file and install nothing. {NATURE}\n{HELP}"
        )
    if asked == "rerun":
        return f"I cannot start a re-run on this server. In a terminal: {commands.run_py('--check-only')}"
    if asked == "research":
        return _research(results.get("research"))
    return f"I do not understand that. {NATURE}\n{HELP}"


def _problem(check: Mapping[str, Any]) -> str:
    line = f"- {check['title']} ({check['severity']}, {check['outcome']}): {check['message'] or 'no message'}"
    return f"{line}\n  Fix: {check['fix']}" if check["fix"] else line


def _failed(result: Mapping[str, Any]) -> str:
    if result["status"] == "not run":
        return "No preflight has run for this instance, so I cannot tell what would fail."
    if result["status"] == "broken":
        return f"The check suite itself failed: {result['reason']}"
    lines = []
    if result["critical_errors"]:
        count = len(result["critical_errors"])
        lines.append(f"{count} critical requirement{'s' * (count > 1)} failed and block{'s' * (count == 1)} a start:")
        lines += map(_problem, result["critical_errors"])
    else:
        lines.append("Nothing critical failed: the server may start.")
    if result["warnings"]:
        lines.append("Warnings, which block nothing:")
        lines += map(_problem, result["warnings"])
    return "\n".join([*lines, _source(result)])


def _warnings(result: Mapping[str, Any]) -> str:
    if not result["warnings"]:
        return f"There are no warnings.\n{_source(result)}"
    return "\n".join(["Warnings, which block nothing:", *map(_problem, result["warnings"]), _source(result)])


def _source(result: Mapping[str, Any]) -> str:
    return f"(Report of {result['generated_at']}, run {str(result['run_id'])[:8]}.)" if result["generated_at"] else ""


def _status(result: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{count} {outcome}" for outcome, count in result["summary"].items() if outcome != "total")
    server = result["server"]
    state = "draining" if result["draining"] else "serving"
    where = f"the Unix socket {server['uds']}" if "uds" in server else address(server["host"], server["port"])
    lines = [
        f"The server is {state} on {where}, version {server['version']}.",
        f"Preflight: {result['status']}; {result['summary'].get('total', 0)} requirements: {counts or 'none'}.",
    ]
    lines += [f"- {check['title']}: {check['message']}" for check in result["critical_errors"] + result["warnings"]]
    return "\n".join([*lines, _source(result)])


def _keys(result: Mapping[str, Any]) -> str:
    lines = []
    for name, key in result["keys"].items():
        if key["loaded"]:
            lines.append(f"- {name}, for {key['for']}: loaded from the {key['source']}.")
            if key["message"]:
                lines.append(f"  {key['message']}\n  Fix: {key['fix']}")
        elif not key["used"]:
            lines.append(f"- {name}, for {key['for']}: not used.")
        else:
            lines.append(f"- {name}, for {key['for']}: not loaded. Fix: {key['fix']}")
    file = result["env_file"]
    if not file["used"]:
        lines.append("This server runs the embedded profile (the setting demo): it needs no key and reads no env file.")
    elif not file["exists"]:
        init = commands.run_py("--init")
        lines.append(f"The env file {file['path']} does not exist yet; this writes one to fill in: {init}")
    return "\n".join(["Keys (values are never shown):", *lines])


def _versions(result: Mapping[str, Any]) -> str:
    python = result["python"]
    version = result["server"]["version"]
    lines = [f"Server {version}, Python {python['running']} (the application requires {python['required']})."]
    packages = [f"{name} {version}" for name, version in result["dependencies"].items()]
    return "\n".join([*lines, "Packages: " + ", ".join(packages)] if packages else lines)


def _uptime(result: Mapping[str, Any]) -> str:
    server = result["server"]
    count = server["restarts"].get("count", 0)
    said = f"This instance has run for {_span(server['uptime_seconds'])}, its worker (PID {server['pid']}) for"
    said += f" {_span(server['worker_uptime_seconds'])}."
    if not count:
        return f"{said} The worker never had to be restarted."
    last = server["restarts"]
    times = "once" if count == 1 else f"{count} times"
    return f"{said} The worker was restarted {times}, last at {last.get('last_exit_at')} ({last.get('last_exit')})."


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{value} {unit}" for value, unit in parts if value) or "less than a second"


def _port(result: Mapping[str, Any]) -> str:
    if "uds" in result:
        option, name, what = "--uds", result["uds"], f"The Unix socket {result['uds']}"
    else:
        option, name, what = "--port", str(result["port"]), f"Port {result['port']}"
    if "error" in result:
        return f"{what} cannot be examined: {result['error']}"
    if result["free"]:
        of = f" of {result['host']}" if "host" in result else ""
        return f"{what}{of} is free: nothing listens on it."
    lines = [f"{what} is held by:"]
    for holder in result["holders"]:
        command = f": {holder['command']}" if holder["command"] else ""
        unit = f" [service {holder['unit']}]" if holder["unit"] else ""
        unit += f" [container {holder['container']}]" if holder["container"] else ""
        lines.append(f"- {holder['title']}{unit}{command}")
    if result["served_by_this_project"]:
        lines.append("That is an instance of this project" + (", this server." if result["own_server"] else "."))
    else:
        status = commands.run_py(option, name, "--port-status")
        lines.append(f"To see what a start would do about it: {status}")
    return "\n".join(lines)


def _check(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return f"I know no check of that name. The checks are: {', '.join(result['checks'])}."
    lines = [f"{result['title']} ({result['severity']}): {result['outcome']}."]
    lines += [result["requirement"]] if result["requirement"] else []
    lines += [f"Found: {result['message']}"] if result["message"] else []
    if result["outcome"] in ("passed", "not_applicable"):
        lines.append("There is nothing to fix.")
    elif result["fix"]:
        lines.append(f"Fix: {result['fix']}")
    else:
        lines.append("The report names no fix for it.")
    return "\n".join(lines)


def _history(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return _check(result)
    lines = [
        f"- {local_of(run['at'])} ({run['origin']}): {run['outcome']}{': ' + run['message'] if run['message'] else ''}"
        for run in result["runs"]
    ]
    return "\n".join([f"{result['title']}, newest first:", *lines])


def _rerun(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return f"No re-run was started: {result['error']}."
    run = result.get("run_id")
    return f"A re-run has been started{f' (run {run})' if run else ''}; ask me what failed when it is done."


def _research(result: object) -> str:
    if isinstance(result, dict) and isinstance(result.get("answer"), str):
        return f"The research service says (text from outside, not checked):\n{result['answer']}"
    said = result.get("message") if isinstance(result, dict) else None
    return str(said or "Research is off.")


_REPORT = "read_report"
SAYINGS: Mapping[str, Sequence[tuple[str, Callable[[Mapping[str, Any]], str]]]] = {
    "failed": [(_REPORT, _failed)],
    "fix": [("explain_check", _check), (_REPORT, _failed)],
    "explain": [("explain_check", _check), (_REPORT, _status)],
    "history": [("check_history", _history), (_REPORT, _status)],
    "warnings": [(_REPORT, _warnings)],
    "keys": [(_REPORT, _keys)],
    "port": [("port_status", _port)],
    "status": [(_REPORT, _status)],
    "versions": [(_REPORT, _versions)],
    "uptime": [(_REPORT, _uptime)],
    "rerun": [("start_rerun", _rerun)],
}
