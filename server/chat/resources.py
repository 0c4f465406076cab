"""What everything in one application's chat shares: the store, the agent, the redactor and the way out."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from preflight.redaction.redactor import Redactor
from preflight.web.instance import Instance
from server.chat import messages
from server.sessions import opening
from server.settings import AgentSettings

if TYPE_CHECKING:
    from preflight.web.past import EarlierRuns
    from preflight.web.snapshot import Snapshot
    from server.agent.graph import Agent
    from server.sessions.model import Sessions

T = TypeVar("T")

LONG = 2 * 1024  # characters of a text that takes longer to redact than everybody else should wait
SPELL = 100  # turns after which a pause is used to give memory back
PAUSE = 1.0  # seconds without a turn that are a pause


class Resources:
    """Made in the event loop; everything in it happens there."""

    def __init__(
        self,
        instance: Instance,
        snapshot: Snapshot,
        past: EarlierRuns,
        rerun: Callable[[], Awaitable[dict[str, Any]]] | None = None,
        observe_turn: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        """``snapshot`` and ``past``: the application's looks at the reports. The others are explained below."""
        settings = instance.settings
        self.instance = instance
        self.settings = settings
        self.limits = settings.of(AgentSettings)
        self.redactor = Redactor.of(settings)
        self.store = opening.opened(settings)
        self.rerun = rerun
        """Starts a re-run of the suite, or joins the one that is going on; None if the server has none.

        It returns as soon as the run has begun, and not when it ends, a JSON object with at least ``run_id``; what
        else is in it (where to follow the run) goes to the model as well. Where no run can be started it returns
        ``{"error": "why, in one line"}`` and nothing else, which is what the person is told; what it raises becomes a
        tool that broke. Whatever it returns is redacted.
        """
        self._snapshot, self._past = snapshot, past
        self._observe_turn = observe_turn  # told how many seconds each turn took
        self._turns = 0  # since memory was given back
        self._pause: asyncio.TimerHandle | None = None
        self._making: asyncio.Task[Agent] | None = None
        self._aside = asyncio.Lock()

    def render(self, message: messages.Server) -> str:
        """A message as it leaves: redacted. The only way out."""
        return json.dumps(self.redactor.document(message.model_dump(exclude_none=True)), ensure_ascii=False)

    async def rendered(self, message: messages.Server) -> str:
        """The same for a message that may have much text in it."""
        return await self.aside(lambda: self.render(message))

    async def redacted(self, text: str) -> str:
        """What a client has sent, without secrets."""
        if len(text) < LONG:
            return self.redactor.text(text)

        def twice() -> str:
            redacted = self.redactor.text(text)
            self.redactor.text(redacted)  # known from now on, where `render` meets it again
            return redacted

        return await self.aside(twice)

    async def aside(self, work: Callable[[], T]) -> T:
        """Have work on long texts done in a thread, one after the other: for everybody else the event loop goes on."""
        async with self._aside:
            return await asyncio.to_thread(work)

    async def agent(self) -> Agent:
        """The agent, imported and made in the background; whoever comes first begins it, and all wait for it.

        Raises StoreError, or whatever its import raises; the next call tries again.
        """
        made = self._making
        if made is None or (made.done() and (made.cancelled() or made.exception() is not None)):
            made = self._begin_to_make()
        return await asyncio.shield(made)  # a caller that is cancelled leaves the making to the others

    def expect_questions(self) -> None:
        """Begin to make the agent, unless that has been tried: it will soon be asked."""
        if self._making is None:
            self._begin_to_make()

    def _begin_to_make(self) -> asyncio.Task[Agent]:
        self._making = made = asyncio.create_task(self._make())
        made.add_done_callback(lambda one: one.cancelled() or one.exception())  # nobody may have waited for it
        return made

    async def _make(self) -> Agent:
        await asyncio.to_thread(_load, self.store)
        from server.agent import graph, tools

        checkpointer = await self.store.checkpointer()
        toolbox = tools.Toolbox(self.instance, self.redactor, self._snapshot, self._past, self.rerun)
        # In a thread: with a key this imports langchain-openai.
        return await asyncio.to_thread(graph.make, self.instance, self.redactor, toolbox, checkpointer)

    def turned(self, seconds: float) -> None:
        """Note a turn that took this time."""
        self._observe_turn(seconds)
        self._turns += 1
        if self._turns >= SPELL:
            if self._pause is not None:
                self._pause.cancel()
            self._pause = asyncio.get_running_loop().call_later(PAUSE, self._rest)

    def _rest(self) -> None:
        self._turns, self._pause = 0, None
        # Its own thread: it waits for no one, and nobody for it.
        threading.Thread(target=_trim, name="trim", daemon=True).start()

    async def close(self) -> None:
        """End what is left; unfinished turns are in the store."""
        if self._pause is not None:
            self._pause.cancel()
        if self._making is not None:
            self._making.cancel()
        await self.store.close()


def _trim() -> None:
    """Give free memory back: after many turns at once glibc keeps some 30 MiB that nothing is in (measured)."""
    import ctypes

    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it, others need none
    if trim is not None:
        trim(0)


def _load(store: Sessions) -> None:
    """Import what the agent needs. Collecting garbage meanwhile finds none, and takes a third of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        import server.agent.graph
        import server.agent.tools  # noqa: F401  # both are for the first question

        store.load()
    finally:
        gc.freeze()
        if collecting:
            gc.enable()
