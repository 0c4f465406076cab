"""``ready.model``: a service offers the model; a local one has it loaded, and is not only reachable."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, Unpack
from urllib.parse import quote

from preflight.contract import Details
from preflight.making import Ask, Failure, Instead, literal, requirement, unknown
from preflight.making import url as parsed
from preflight.ready.judges import MONEY, is_rejection
from preflight.ready.keys import PROVIDERS, base_of, headers_of, provider_of, question_of
from preflight.ready.web import HttpAnswer, get, send
from preflight.suite.probes import asking
from preflight.text import foreign

LOCAL = ("ollama", "vllm", "llama.cpp")


class ModelsAnswer(NamedTuple):
    """The service's answer about its models."""

    status: int
    names: list[str] | None
    """The models that it offers; None if it does not say."""
    not_ready: str = ""
    """Why the model cannot be used yet; empty if it can, as far as is known."""
    knows: bool = False
    """Whether it knows the model's name although the list does not have it: an alias, say."""
    shared: str = ""
    """Who asked in place of this instance, and when, for people; empty if it asked itself."""
    rejects: str = ""
    """The variable with a key that the service rejects; empty if it does not say so."""


def model(
    variable: str,
    name: str,
    *,
    provider: str = "",
    base: str = "",
    loaded: bool = True,
    key: str = "",
    paid: bool = False,
    **instead: Unpack[Instead],
) -> Callable[..., None]:
    """The service behind ``variable`` offers the model ``name``.

    :param variable: the variable with the key of a service; or, for "ollama", "vllm" and "llama.cpp", with its URL.
    :param provider: as for `api_key`, or one of these three, which run on machines of one's own.
    :param loaded: of these three: whether the model has to be in memory already, and not only to be had.
    :param key: of these three: the variable with the key that they want, if they do.
    :param paid: have the model answer one word, which costs money: only that shows that quota and rights suffice.
    """
    kind = provider_of(variable, provider, LOCAL)
    base = literal(base)
    if paid and kind not in SAYS_A_WORD:
        raise ValueError(f"{kind} cannot be asked with paid=True, only {', '.join(SAYS_A_WORD)}")

    def probe(ask: Ask) -> ModelsAnswer:
        if kind in LOCAL:
            return _local(kind, name, ask, key, loaded=loaded)

        def asked() -> ModelsAnswer:
            return _used(kind, name, ask, base) if paid else _offered(kind, name, ask, base)

        if ask.sharing is None:
            return asked()
        question = question_of(PROVIDERS[kind], ask, base)
        if asking.fault(question) is not None:
            return asked()
        return ask.shared(
            ("model", name, str(paid), *question.about),
            asked,
            is_good=lambda answer: answer.knows or _is_among(name, answer.names or []),
            shared=lambda words, _seconds: ModelsAnswer(200, None, knows=True, shared=words),
        )

    def judge(answer: ModelsAnswer, details: Details) -> None:
        details.update(status=answer.status, models=(answer.names or [])[:100])
        details.summary = f"{name} is {state}{f', {answer.shared}' if answer.shared else ''}"
        if answer.knows:
            return
        if answer.rejects:
            details.fix = f"set {answer.rejects} to a key that works"
        assert not answer.rejects, f"{answer.rejects} was rejected by the service (HTTP {answer.status})"
        if answer.status in (401, 403):
            unknown(f"the service does not let this key list its models (HTTP {answer.status})")
        if answer.status == 429 or answer.status >= 500:
            unknown(f"the service answered HTTP {answer.status}")
        if answer.names is None:
            unknown(f"the service does not say which models it has (HTTP {answer.status})")
        found = _is_among(name, answer.names)
        some = ", ".join(answer.names[:5]) or "none"
        assert found, f"the service has no model {name}; it has {some}{' ...' if len(answer.names) > 5 else ''}"
        assert not answer.not_ready, answer.not_ready

    if kind in LOCAL:
        state, stands = ("loaded", "loaded and ready") if loaded else ("there", "on its server")
    else:
        state, stands = ("answering", "answering") if paid else ("offered", "offered by its service")
    return requirement(
        probe,
        judge,
        variable=variable,
        title=f"Model {name}",
        doc=f"The model {name} is {stands}.",
        fix=_fix(kind, name),
        needs=["network"],
        instead=instead,
    )


def _fix(kind: str, name: str) -> str:
    if kind == "ollama":
        return f"ollama pull {name} && ollama run {name} ''"
    if kind in LOCAL:
        return f"start {kind} with {name}, and wait until it is loaded"
    return f"use another model, or make sure that the account may use {name}"


def _is_among(name: str, names: list[str]) -> bool:
    """Whether a model is there, as services name theirs: "models/gemini-2.5-pro", "llama3:latest"."""
    return any(one in (name, f"models/{name}", f"{name}:latest") for one in names)


# All of the list at once: a model on its second page would seem to be missing.
_ALL = {"google": "v1beta/models?pageSize=1000", "anthropic": "v1/models?limit=1000"}


def _offered(kind: str, name: str, ask: Ask, base: str) -> ModelsAnswer:
    known = PROVIDERS[kind]
    if kind == "perplexity":
        unknown("Perplexity has no list of its models")
    if kind == "azure":
        unknown("Azure lists its models, but not the deployments that are used by name: only paid=True shows those")
    question = question_of(known, ask, base, _ALL.get(kind, ""))
    headers = headers_of(question)
    try:
        answer = get(question.url, ask, headers)
        if answer.cut:
            unknown(f"the service's list {answer.cut}")
        names = _names(answer, known.lists[0])
        if _rejects(answer, ask.value):
            return ModelsAnswer(answer.status, None, rejects=ask.variable)
        if names is None or _is_among(name, names):
            return ModelsAnswer(answer.status, names)
        # Some services know aliases ("-latest") and custom models, but have them in no list.
        alone = get(asking.below(base_of(known, ask, base), f"{known.route}/{quote(name)}"), ask, headers)
        knows = alone.status == 200 and isinstance(alone.document, dict) and "error" not in alone.document
        return ModelsAnswer(answer.status, names, knows=knows and bool({"id", "name"} & alone.document.keys()))
    except Failure as failure:  # about a public service, that is not certain
        unknown(str(failure))


def _rejects(answer: HttpAnswer, key: str) -> bool:
    """Whether a service says that the key is none; 401 alone may be about a right that the key lacks."""
    return answer.status in (400, 401, 403) and is_rejection(asking.code_of(answer.document, key))


SAYS_A_WORD = {
    "openai": "choices", "anthropic": "content", "google": "candidates", "azure": "choices", "mistral": "choices",
    "perplexity": "choices",
}  # fmt: skip
"""The providers that can be asked for one word, and the list in which a good answer has it.

`_word` has the route and the body for each.
"""


def _word(kind: str, name: str) -> tuple[str, dict[str, Any]]:
    question = [{"role": "user", "content": "Say yes."}]
    if kind == "google":
        return f"v1beta/models/{quote(name)}:generateContent", {"contents": [{"parts": [{"text": "Say yes."}]}]}
    if kind == "anthropic":
        return "v1/messages", {"model": name, "max_tokens": 1, "messages": question}
    if kind == "azure":
        return f"openai/deployments/{quote(name)}/chat/completions?api-version=2024-10-21", {"messages": question}
    route = "v1/chat/completions" if kind == "mistral" else "chat/completions"
    # No limit on the answer: models that reason have another name for it, and refuse the one that others know.
    return route, {"model": name, "messages": question}


def _used(kind: str, name: str, ask: Ask, base: str) -> ModelsAnswer:
    """Have the model answer one word. Raises Failure if the service says that it cannot be used."""
    known = PROVIDERS[kind]
    route, body = _word(kind, name)
    question = question_of(known, ask, base, route)
    headers = {**headers_of(question), "Content-Type": "application/json"}
    try:
        answer = send("POST", question.url, ask, headers, json.dumps(body).encode())
    except Failure as failure:
        unknown(str(failure))
    error = answer.document.get("error") if isinstance(answer.document, dict) else None
    said = " ".join(str(error.get(one)) for one in ("code", "type", "status")) if isinstance(error, dict) else ""
    if answer.status == 200 and error is None and _entries(answer.document, SAYS_A_WORD[kind]):
        return ModelsAnswer(200, None, knows=True)
    if answer.status == 401 or _rejects(answer, ask.value):
        return ModelsAnswer(answer.status, None, rejects=ask.variable)
    if answer.status == 404:
        raise Failure(f"the service has no model {name} (HTTP 404)")
    if answer.status in (402, 429) and MONEY.search(said.lower()):
        raise Failure(
            f"the account has no quota or credit left for {name} (HTTP {answer.status})", "look at its billing"
        )
    but = ", but not with a model's words" if answer.status == 200 else ""  # a proxy's page to log in, say
    unknown(f"{name} was asked, and the service answered HTTP {answer.status}{but}")


def _entries(document: Any, where: str) -> list[dict[str, Any]] | None:
    """The objects in the list that an answer has under this name, or is; None if there is no such list."""
    listed = document.get(where, False) if isinstance(document, dict) else document
    if listed is None and isinstance(document, dict):
        return []  # ollama's, while it has none
    return [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else None


def _names(answer: HttpAnswer, where: str) -> list[str] | None:
    """The names in a list of models; None if the service has not answered with one."""
    entries = _entries(answer.document, where) if answer.status == 200 else None
    if entries is None:
        return None
    names = [entry.get("id") or entry.get("name") or entry.get("model") for entry in entries]
    names += [alias for entry in entries if isinstance(entry.get("aliases"), list) for alias in entry["aliases"]]
    return [foreign(name) for name in names if isinstance(name, str)]


def _local(kind: str, name: str, ask: Ask, key: str, *, loaded: bool) -> ModelsAnswer:
    """The models of a self-hosted server; vLLM and llama.cpp list them before they can be used, and after."""
    if kind == "ollama":
        ask = replace(ask, value=_of_ollama(ask.value))
    parsed(ask, ["http", "https"], f"the URL of {kind}")
    root = ask.value.rstrip("/").removesuffix("/v1").removesuffix("/api" if kind == "ollama" else "/v1")
    headers = {"Authorization": f"Bearer {ask.environment[key]}"} if ask.environment.get(key) else {}
    if kind == "ollama":
        # https://github.com/ollama/ollama/blob/main/docs/api.md: api/tags has what is on disk, api/ps what is loaded
        there = get(asking.below(root, "api/tags"), ask, headers)
        names = _names(there, "models")
        if there.status == 401 and headers:
            return ModelsAnswer(401, None, rejects=key)
        _see_that_it_lists(kind, "/api/tags", there, names)
        if loaded and names is not None and _is_among(name, names):
            listed = get(asking.below(root, "api/ps"), ask, headers)
            running = _names(listed, "models")
            if running is None:
                said = f"/api/ps, which answers HTTP {listed.status}, does not say whether it is loaded"
                raise Failure(f"{name} is on the disk, but {said}")
            if not _is_among(name, running):
                return ModelsAnswer(there.status, names, f"{name} is on the disk, but not loaded")
        return ModelsAnswer(there.status, names)
    answer = get(asking.below(root, "v1/models"), ask, headers)
    names = _names(answer, "data")
    if answer.status == 401 and headers:
        return ModelsAnswer(401, None, rejects=key)
    health = get(asking.below(root, "health"), ask, headers) if loaded else None
    if health is not None and health.status >= 500:
        # llama.cpp says 503 and "Loading model" until it is ready. vLLM says 503 when its engine has died, and 500
        # before release 0.11; a proxy in front of either says 502 or 504.
        error = health.document.get("error") if isinstance(health.document, dict) else None
        loading = "loading" in str(error.get("message", "") if isinstance(error, dict) else error).lower()
        said = f"is not ready: the server's /health answers HTTP {health.status}"
        return ModelsAnswer(200, [*(names or []), name], f"{name} {'is still being loaded' if loading else said}")
    _see_that_it_lists(kind, "/v1/models", answer, names)
    if health is not None and health.status != 200 and names is not None and _is_among(name, names):
        unknown(f"it is unknown whether {name} is loaded: the server's /health answers HTTP {health.status}")
    return ModelsAnswer(answer.status, names, _asleep(answer.document, name) if loaded else "")


def _see_that_it_lists(kind: str, route: str, answer: HttpAnswer, names: list[str] | None) -> None:
    """Raises Failure if another server answers in the place of one's own: with a page, or by sending elsewhere."""
    lacks = "it has no" if answer.status == 404 else "there is no list of models at its"
    if answer.status == 404 or (names is None and answer.status < 400 and not answer.cut):
        raise Failure(f"the server that answers is not {kind}: {lacks} {route}")


def _asleep(document: Any, name: str) -> str:
    """Why a model in the list is not loaded, where the list says so: llama.cpp's does, of several models."""
    for one in document.get("data", ()) if isinstance(document, dict) else ():
        status = one.get("status") if isinstance(one, dict) and one.get("id") == name else None
        value = status.get("value") if isinstance(status, dict) else None
        if isinstance(value, str) and value != "loaded":
            return f"{name} is not loaded: the server says that it is {foreign(value)}"
    return ""


def _of_ollama(value: str) -> str:
    """The URL that OLLAMA_HOST stands for: it may have neither scheme nor port, and name the address to listen at.

    https://github.com/ollama/ollama/blob/main/envconfig/config.go
    """
    scheme, mark, rest = value.strip().rpartition("://")
    if "@" in rest or not re.fullmatch(r"[\w.:\[\]-]+(?:/.*)?", rest):
        return value
    host, slash, path = rest.partition("/")
    if not mark and not re.search(r":\d+$", host):
        host += ":11434"
    host = re.sub(r"^(0\.0\.0\.0|\[::\]|)(?=:|$)", "127.0.0.1", host)
    return f"{scheme or 'http'}://{host}{slash}{path}"
