"""What a guarded application says about itself, and the services that its routes answer from."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from starlette.types import Scope

from preflight.web.access import Access
from preflight.web.fleet import FleetView
from preflight.web.followers import Followers
from preflight.web.instance import Instance
from preflight.web.metrics import Metrics
from preflight.web.past import EarlierRuns
from preflight.web.reruns import Reruns
from preflight.web.routing import Table, audiences
from preflight.web.schemas import Schema
from preflight.web.snapshot import Snapshot

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from preflight.web.logins import Admission

STATE = "preflight.web"
"""The name of the services in the lifespan's and every request's state (ASGI: ``scope["state"]``)."""


class Load(Protocol):
    """How much an application has to do, for /health; read with each request, from memory."""

    @property
    def connections(self) -> int:
        """Open connections of its own."""

    @property
    def sessions(self) -> int:
        """Sessions that are in use."""


class Idle:
    """The load of an application that has neither connections nor sessions."""

    connections = 0
    sessions = 0


class Total:
    """The load of all workers of an instance: this one's as it is, the others' as they have published it."""

    def __init__(self, own: Load, instance: Instance) -> None:
        self._own = own
        self._board = instance.board

    @property
    def connections(self) -> int:
        """Open connections of the application's own."""
        return self._own.connections + self._board.others("connections")

    @property
    def sessions(self) -> int:
        """Sessions that are in use; one that is in two workers counts in each."""
        return self._own.sessions + self._board.others("sessions")


class Application(NamedTuple):
    """What a guarded application says about itself."""

    title: str
    architecture: str
    """What it is made of, in a few words; /health shows it."""
    description: str = ""
    """Of its own routes, for the OpenAPI document."""
    routes: Table = ()
    """Its own routes, which the guard and the document treat like the others."""
    schemas: Mapping[str, Schema] = MappingProxyType({})
    """Of what its routes answer, by the name that references have."""
    panel: Path | None = None
    """The folder of its panel of the page: panel.html is put beside the facts, the other files are under ``static/``.

    Its scripts hear ``preflight:back`` of the window when the server answers again after it was lost, and tell it
    ``preflight:counts`` when what /health counts has changed.
    """
    load: Load = Idle()
    metrics: Callable[[Load], Iterable[Metric]] = lambda _load: ()
    """Its own metrics; called in a thread, with the load of all workers."""
    running: Callable[[Services], AbstractAsyncContextManager[object]] = lambda _services: nullcontext()
    """Entered for as long as it serves."""


class Services(NamedTuple):
    """What the routes of one serving application answer from. In the event loop only."""

    application: Application
    table: Table
    instance: Instance
    access: Access
    snapshot: Snapshot
    past: EarlierRuns
    reruns: Reruns
    followers: Followers
    fleet: FleetView
    metrics: Metrics
    load: Load
    """How much all workers of the instance have to do."""
    admission: Admission | None
    """What opens these routes where they are beside an application; None if they are an application's own."""

    @classmethod
    def made(
        cls, application: Application, table: Table, instance: Instance, admission: Admission | None = None
    ) -> Services:
        """The services of an application that begins to serve as this instance."""
        snapshot, reruns = Snapshot(instance), Reruns(instance)
        reruns.published = snapshot.accept
        access = Access(instance.settings, audiences(table), admission)
        access.cookies.on_ended = instance.end_login
        load = application.load if instance.board.workers == 1 else Total(application.load, instance)
        made = cls(
            application=application,
            table=table,
            instance=instance,
            access=access,
            snapshot=snapshot,
            past=EarlierRuns(instance, snapshot),
            reruns=reruns,
            followers=Followers(instance, reruns, snapshot),
            fleet=FleetView(instance),
            metrics=Metrics(lambda: application.metrics(load)),
            load=load,
            admission=admission,
        )
        instance.busy = lambda: (application.load.connections, application.load.sessions, made.in_flight)
        return made

    @property
    def in_flight(self) -> int:
        """HTTP requests that this very worker is answering."""
        if self.admission is None:
            return self.metrics.in_flight
        # Beside an application the requests are its server's to count.
        return self.instance.requests() if self.instance.requests is not None else 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For as long as the application serves."""
        self.instance.fellows.when_told("logout", self.access.cookies.revoke)
        for session, expires in self.instance.ended_logins.items():
            self.access.cookies.revoke(session, expires)
        try:
            async with self.application.running(self), self.reruns.running(), self.followers.running():
                yield
        finally:
            self.access.guesses.tell(self.instance)


def of(scope: Scope) -> Services:
    """The services that answer this request."""
    services: Services = scope["state"][STATE]
    return services
