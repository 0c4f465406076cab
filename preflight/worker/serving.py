"""uvicorn with an orderly end: announce it, answer what was accepted, let work finish, then close."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from preflight.instances import socketfiles
from preflight.output import floods
from preflight.processes import signals
from preflight.settings.model import Settings
from preflight.web.instance import Instance
from preflight.worker import backlog, connections, handshake, protocol, websocket
from preflight.worker.application import LoadedApplication

STARTUP_FAILURE = 3  # uvicorn's exit code of a lifespan that fails; not all releases have the name in one place
CLOSE = (b"connection", b"close")
SWITCH = 0.0005  # seconds
TICK = 0.01  # seconds between two looks at what is still going on
SWEEP = 5  # ticks of uvicorn, which are 0.1 s, between two looks at deadlines of clients
REGULAR = 0.5  # seconds between two such looks during the end
LINGER = 0.25  # seconds that idle keep-alive connections get to send a last request, when nobody replaces us
GOODBYE = 0.2  # seconds that what was cancelled gets to clean up


class Server(uvicorn.Server):
    """Serves one application on a listening socket that it was given."""

    def __init__(
        self,
        application: LoadedApplication,
        instance: Instance,
        say: Callable[[str], object],
        *,
        beat: float = 0.0,
        on_trial: bool = False,
    ) -> None:
        """``say`` is called in the event loop with what the launcher is to hear, and does not wait.

        That is "started" once the application's start-up is complete, "beat" from then on every ``beat`` seconds (0:
        never) for as long as the loop turns, and "ready" when connections are accepted. ``on_trial``: none is accepted
        before :meth:`admit` is called.
        """
        settings = instance.settings
        super().__init__(_config(application, settings))
        self.server_state: connections.State = connections.State(connections.Limits.of(settings))
        self._log = floods.bound()
        self.instance = instance
        self.cancelled = 0
        self._say = say
        self._beats_every = beat
        self._on_trial = on_trial
        self._admitted = asyncio.Event()
        self._hurried = asyncio.Event()
        instance.requests = self._requests
        self._taking: set[asyncio.Task[object]] = set()
        self._late: dict[protocol.Http, float] = {}
        """Connections whose client had an answer to take, and when it was last seen to have one."""
        self._replaced = self._last = self._starts = False
        self.servers: list[Any] = []
        self._start_up: asyncio.Task[object] | None = None
        """Runs the application's lifespan."""
        self._loop: asyncio.AbstractEventLoop | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would end on signals that the launcher handles, and the application may have handlers of its own."""
        if threading.current_thread() is threading.main_thread():
            signals.leave_to_launcher()
        yield

    def drain(self, *, replaced: bool, last: bool, starts: bool = False) -> None:
        """Begin the end, from any thread.

        ``replaced``: another worker serves the same socket already. ``last``: nobody accepts on it after us.
        ``starts``: a start-up that goes on is completed first, since connections wait for it; else it is cancelled.
        """
        self._replaced, self._last, self._starts = replaced, last, starts
        self.should_exit = True
        self._in_loop(self._announce)

    def count_in_flight(self, answer: Callable[[int], object]) -> None:
        """Tell ``answer`` how many requests and pieces of work have not ended; from any thread."""
        self._in_loop(lambda: answer(self.instance.works + self._requests() + self._untaken(self._patience)))

    def hurry(self) -> None:
        """Leave out what is left of drain_delay; from any thread, and from a signal's handler."""
        self._in_loop(self._hurried.set)

    def admit(self) -> None:
        """Accept connections, after a trial; from any thread."""
        self._in_loop(self._admitted.set)

    def ask(self, sock: socket.socket) -> None:
        """Serve one connection that did not come over the listening socket; from any thread, once it has started."""
        self._in_loop(self._take, sock)

    def _in_loop(self, call: Callable[..., object], *arguments: object) -> None:
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(call, *arguments)
            except RuntimeError:
                pass  # closed in this very moment: it has drained

    def _take(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # Without TLS, whose handshake would ask for a client's certificate: both ends are this instance's.
        task = loop.create_task(loop.connect_accepted_socket(self._own_connection, sock))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    def _connection(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    def _own_connection(self) -> asyncio.Protocol:
        """The protocol of a connection for :meth:`ask`; the application sees it like any other."""
        connection = self._connection()
        if isinstance(connection, protocol.Http) and self.config.is_ssl:
            connection.asked_as = "https"
        return connection

    def _announce(self) -> None:
        """From now on, readiness is refused, unless another one serves, and every answer is its connection's last."""
        self._admitted.set()  # nobody waits for that any more
        if self._is_superfluous and self._start_up is not None and not self.lifespan.startup_event.is_set():
            self._start_up.cancel(msg="the server ends")
        if self._replaced:
            # First: whoever connects from now on is the other one's, and no load balancer has to notice anything.
            for server in self.servers:
                server.close()
        elif not self.instance.draining:
            self.instance.start_draining()
        if CLOSE not in self.server_state.default_headers:
            self.server_state.default_headers = [*self.server_state.default_headers, CLOSE]
        for connection in self.server_state.connections:
            # A request in flight has its default headers already; its answer, until it begins, can still get this one.
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and not getattr(cycle, "response_started", True):
                cycle.keep_alive = False

    @property
    def _is_superfluous(self) -> bool:
        """Whether nobody needs a start-up of this worker any more."""
        return self.should_exit and not self._starts

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the application's lifespan with the instance in its state; then, after a trial if need be, accept."""
        self._loop = loop = asyncio.get_running_loop()
        # A thread that computes (a re-run's report, say) lets the event loop in after this time, and not after 5 ms.
        sys.setswitchinterval(SWITCH)
        self.lifespan.state["preflight"] = self.instance
        self.lifespan.config = copy.copy(self.config)
        self.lifespan.config.loaded_app = self._starts_up
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        if self._is_superfluous and self._start_up is not None and self._start_up.done():
            return  # it was cancelled
        self.servers = []
        self.started = True
        self._say("started")
        if self._beats_every:
            self._beat(self._beats_every)
        if self._on_trial:
            await self._admitted.wait()
            if self.should_exit:
                return  # it was not admitted: no connection of the listening socket was its to answer
        for sock in sockets or ():
            self.servers.append(await self._listen(loop, sock))
        self._say("ready")

    async def _listen(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> Any:
        """What accepts connections; uvicorn ends it like a server of asyncio's."""
        if (context := self.config.ssl) is not None:
            encrypt = functools.partial(
                handshake.Handshake, made=self._connection, state=self.server_state, context=context
            )
            return handshake.Accepting(sock, self.config.backlog, self.server_state, encrypt)
        options: dict[str, Any] = {"sock": sock, "backlog": self.config.backlog}
        if sock.family != socket.AF_UNIX:
            return await loop.create_server(self._connection, **options)
        if sys.version_info >= (3, 13):
            options["cleanup_socket"] = False  # the file is the next instance's, if there is one
        return await loop.create_unix_server(self._connection, **options)

    async def _starts_up(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application's lifespan. If it raises anything, uvicorn assumes that there is none, and serves."""
        begun = False
        self._start_up = asyncio.current_task()
        if self._is_superfluous:
            return

        async def sent(message: Any) -> None:
            # A cancelled start-up has not failed: its traceback helps nobody.
            if not (self._is_superfluous and message["type"] == "lifespan.startup.failed"):
                await send(message)

        async def received() -> Any:
            nonlocal begun
            message = await receive()
            begun = True
            return message

        try:
            await self.config.loaded_app(scope, received, sent)
        except (SystemExit, KeyboardInterrupt) as error:
            # An application without a lifespan does not say so like this.
            if not self.lifespan.startup_event.is_set():
                self.lifespan.startup_failed = True
                logging.getLogger("uvicorn.error").error("The application's start-up ended with %r.", error)
            raise
        except Exception as error:
            # An application without a lifespan raises before it receives anything. A server goes on in any case (ASGI).
            if begun and not self.lifespan.startup_event.is_set():
                said = "The application's start-up ended with %r; the application is served without a lifespan."
                logging.getLogger("uvicorn.error").error(said, error)
            raise

    def _beat(self, interval: float) -> None:
        """Report that the loop runs, until the end begins, which has a deadline of its own."""
        if not self.should_exit:
            self._say("beat")
            asyncio.get_running_loop().call_later(interval, self._beat, interval)

    async def on_tick(self, counter: int) -> bool:
        """Do what is done regularly. uvicorn's own tick resets the default headers each second."""
        done = await super().on_tick(counter)
        if counter % SWEEP == 0:
            self.server_state.sweep(asyncio.get_running_loop().time())
            self._log.tell()
        if done or self.instance.draining:
            self._announce()
        if self.instance.board.workers > 1 and self.instance.busy is not None:
            self.instance.board.publish(self.instance.busy())
        return done

    async def _tick_on(self) -> None:
        """Go on with what is done regularly: uvicorn's own loop has ended, and clients have deadlines until the end."""
        while True:
            await asyncio.sleep(REGULAR)
            await self.on_tick(0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: serve on for drain_delay, finish within graceful_timeout, and cancel what is left."""
        loop = asyncio.get_running_loop()
        ticking = loop.create_task(self._tick_on())
        settings = self.instance.settings
        self._announce()
        if not self._replaced:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._hurried.wait(), settings.delay)
        deadline = loop.time() + settings.graceful_timeout
        if self._last:
            for sock in sockets or ():
                if settings.uds is not None:
                    socketfiles.adopt(sock)  # another worker, or the launcher, may have been the last to listen
                    socketfiles.remove_own(settings.uds)
                await backlog.empty(sock, deadline, local=settings.loopback)
        for server in self.servers:
            server.close()
        for sock in sockets or ():
            sock.close()  # the port is free now, if nobody else holds it
        # Connections accepted in the last turn of the loop get their protocols, and those of a load balancer an answer.
        await asyncio.sleep(LINGER if self._replaced else TICK)
        if not self.instance.draining:
            self.instance.start_draining()
        self._announce()
        # Idle connections of a replaced instance have their usual time: nobody waits for us.
        linger = deadline if self._replaced else loop.time() + LINGER
        while loop.time() < deadline and (self._busy() or (self._idle() and loop.time() < linger)):
            await asyncio.sleep(TICK)
        for connection in list(self.server_state.connections):
            connection.shutdown()
        goodbye = loop.time() + LINGER
        while self._unfinished(self._patience) and loop.time() < deadline:
            await asyncio.sleep(TICK)
        while self.server_state.connections and loop.time() < min(goodbye, deadline):
            await asyncio.sleep(TICK)
        self.cancelled = self._unfinished()
        ticking.cancel()
        for task in self.server_state.tasks:
            task.cancel(msg="graceful_timeout is over")
        await super().shutdown(sockets)
        self._log.tell(at_once=True)

    def _busy(self) -> bool:
        """Whether requests or pieces of work are in flight; WebSockets are not waited for beyond their work."""
        return self.instance.works > 0 or self._requests() > 0

    def _requests(self) -> int:
        """HTTP requests whose answer has not come to its end."""
        cycles = (getattr(connection, "cycle", None) for connection in self.server_state.connections)
        return sum(cycle is not None and not cycle.response_complete for cycle in cycles)

    def _idle(self) -> bool:
        """Whether connections are open on which a request may come, or will be once they are encrypted."""
        return any(hasattr(connection, "cycle") for connection in self.server_state.connections)

    @property
    def _patience(self) -> float:
        """Seconds for which a client behind TLS is believed to take the end of an answer that nobody sees any more."""
        return self.server_state.limits.request_timeout

    def _untaken(self, patience: float = 0.0) -> int:
        """HTTP answers that are complete, and that their clients have not taken yet.

        Behind TLS there is another buffer, of which nobody tells: it is empty when the connection has gone, or after
        ``patience`` seconds.
        """
        now = asyncio.get_running_loop().time()
        found = [one for one in self.server_state.connections if isinstance(one, protocol.Http) and not one.busy]
        kept = {one: at for one, at in self._late.items() if self.config.is_ssl and now - at < patience}
        self._late = {one: kept[one] for one in found if one in kept}
        self._late |= {one: now for one in found if one.transport.get_write_buffer_size() > 0}
        return len(self._late)

    def _unfinished(self, patience: float = 0.0) -> int:
        """Requests, WebSockets and pieces of work that have not ended, and answers that are not taken."""
        return max(self.instance.works, len(self.server_state.tasks)) + self._untaken(patience)


def _config(application: LoadedApplication, settings: Settings) -> uvicorn.Config:
    config = uvicorn.Config(
        # uvicorn takes a factory's product as it is; anything else it calls, in order to find out what it is.
        lambda: application.app,
        factory=True,
        interface=application.interface,
        http=protocol.Http,
        ws=websocket.WebSocket,
        ws_max_size=settings.websocket_message_size,
        ws_per_message_deflate=settings.websocket_compression,
        ws_ping_interval=settings.ws_ping_interval or None,
        ws_ping_timeout=settings.ws_ping_timeout or None,
        proxy_headers=False,  # the application is behind its proxies already; our routes see the socket's peer
        root_path=settings.root_path,
        server_header=False,
        timeout_graceful_shutdown=1,
        **_tls(settings),
        **_logging(settings),
    )
    config.timeout_keep_alive = settings.timeout_keep_alive  # type: ignore[assignment]  # it is compared
    config.timeout_graceful_shutdown = GOODBYE  # type: ignore[assignment]  # it is handed to wait_for()
    if settings.access_log and settings.log_level is None and settings.log_config is None:
        # uvicorn writes these lines at level info, whose other lines only repeat the launcher's.
        logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    return config


def _tls(settings: Settings) -> dict[str, Any]:
    """uvicorn's options for TLS; none if there is no certificate."""
    if settings.ssl_certfile is None:
        return {}
    import ssl  # only if there is one

    requirements = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
    return {
        "ssl_certfile": settings.ssl_certfile,
        "ssl_keyfile": settings.ssl_keyfile,
        "ssl_keyfile_password": settings.ssl_keyfile_password,
        "ssl_ca_certs": settings.ssl_ca_certs,
        "ssl_cert_reqs": requirements[settings.ssl_cert_reqs],
        "ssl_ciphers": settings.ssl_ciphers,
    }


def _logging(settings: Settings) -> dict[str, Any]:
    """uvicorn's options for logging: warnings only by default, since the launcher says what happens."""
    options: dict[str, Any] = {"access_log": settings.access_log, "log_level": settings.log_level}
    if settings.log_config is not None:
        return {**options, "log_config": os.fspath(settings.log_config)}
    return options if settings.log_level is not None else {**options, "log_level": "warning"}


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The factory of the event loop that uvicorn would choose."""
    from uvicorn.loops.auto import auto_loop_factory

    return auto_loop_factory()


def prepare() -> None:
    """Import what uvicorn would import when it begins to serve, so that it can begin at once."""
    import uvicorn.lifespan.on
    import uvicorn.loops.auto  # noqa: F401
