"""How does one process serve? Bind, start the endpoint, warm the engine up, drain, exit.

1. The port is bound first: a port in use is known before any weight is read.
2. Once the weights are in place the endpoint answers, with 503 until every bucket is compiled.
3. SIGTERM, SIGINT or SIGHUP (a terminal that closes; not where it is ignored, as by nohup) drains:
   `/health` and new turns get 503 while running turns finish within the grace period. A second
   signal, or one before the engine is warm, ends the process at once.
"""

import asyncio
import errno
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import click
import jax
import uvicorn
import uvloop
from starlette.types import ASGIApp

from model.checkpoint_files import TOKENIZER
from model.sampling_defaults import SamplingDefaults, read_sampling_defaults
from model.tokenizer import load_tokenizer
from serving.api.access import ACCESS
from serving.api.app import build_app
from serving.api.calls.formats import NONE
from serving.api.connections import Connection
from serving.api.id_tokenizer import IdTokenizer
from serving.api.service import ServedModel, Service
from serving.api.tokenizer import Tokenizer
from serving.assembly import name_workers, route_notice
from serving.config import ConfigError, EndpointConfig, ServerConfig, require
from serving.console import Unhurried, forgiving
from serving.costs.make import choose_hardware
from serving.engine import few_bits
from serving.engine.build import (
    ColdWorker,
    Deployment,
    host_notice,
    load_workers,
    make_coordinator,
    settle,
    warm_up,
)
from serving.engine.compile_cache import cache_directory, keep_compiled
from serving.engine.device_memory import claim, claim_host
from serving.engine.grammars import Grammars
from serving.engine.length_head import LengthHead, NoHead
from serving.engine.loop import EngineLoop
from serving.engine.meshes import make_cpu_devices
from serving.engine.observer import Observers
from serving.engine.trials import Trials
from serving.flags import describe, masked
from serving.hub import with_files
from serving.messages import EngineState, WorkerId
from serving.metrics import DecisionLog, Metrics, ServerLabels
from serving.platforms import suited

SWITCH_INTERVAL_S = 0.0005
"""How long a thread may keep the interpreter while another waits. Python's 5 ms is several steps
of a small model, which a worker would spend waiting for the endpoint's coroutines."""


LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"
KEEP_ALIVE_S = 75
"""How long an idle connection is kept; clients that reuse one later than that may see a reset."""
BACKLOG = 2048
"""Connections that may wait to be taken; uvicorn's own figure."""
HUNG = 1
"""The exit status of a server that ends without a worker, whose thread hangs."""
CLOSE_S = 2
"""Grace for connections that are still open once every turn has ended."""


class DrainingServer(uvicorn.Server):
    """uvicorn, except that a signal starts a drain instead of closing the sockets."""

    def __init__(self, config: uvicorn.Config, on_signal: Callable[[], None]) -> None:
        """`on_signal` is called in the main thread for SIGTERM and SIGINT."""
        super().__init__(config)
        self._on_signal = on_signal

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal."""
        self._on_signal()


def run_server(config: ServerConfig, given: Collection[str]) -> int:
    """Serve until a signal; returns the exit status. Sizes that were not `given` suit the devices.

    Raises ConfigError, CheckpointError or MeshError for what can be known before serving.
    """
    closed = sys.stderr is None
    sys.stderr = forgiving(os.open(os.devnull, os.O_WRONLY) if closed else sys.stderr.fileno())
    logging.basicConfig(format=LOG_FORMAT, force=True)  # to that standard error
    log_requests()
    open_many_files()
    config = with_files(config)
    claim(os.environ)
    workers = len(name_workers(config.mesh))
    claim_host(os.environ, config.memory.host_kv_gib, workers)
    make_cpu_devices(config.mesh.devices_needed)
    config = suited(config, jax.default_backend(), given)
    deployment = settle(config)
    tokenizer = find_tokenizer(deployment)
    if config.model.compilation_cache and jax.default_backend() != "tpu":
        keep_compiled(cache_directory(), least_seconds=0.0)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    names = config.endpoint.served_model_name or (config.name,)
    labels = ServerLabels(
        model_name=names[0],
        max_model_len=deployment.max_model_len,
        workers=tuple(name_workers(config.mesh)),
        page_size=config.memory.page_size,
        cache_dtype=deployment.model.kept_as,
    )
    metrics = Metrics(labels)
    metrics.on_length_head(
        serves=isinstance(deployment.head, LengthHead),
        missing=isinstance(deployment.head, NoHead) and deployment.head.problem is not None,
    )
    count_compilations(metrics)
    decisions = open_decision_log(config, labels)
    observers = Observers([metrics] if decisions is None else [metrics, decisions])
    engine = EngineLoop(
        make_coordinator(deployment),
        observers,
        time.monotonic,
        flexible_roles=config.mesh.flexible_roles,
        step_timeout_s=config.schedule.step_timeout_seconds,
    )
    model = ServedModel(
        names,
        deployment.max_model_len,
        created=int(time.time()),
        seed=config.model.seed,
        random_weights=config.model.random_weights,
        defaults=find_defaults(config),
    )
    grammars = find_grammars(tokenizer)
    trials = None if grammars is None else Trials(grammars)
    service = Service(engine, tokenizer, config.endpoint, model, metrics, trials)
    known = filled_in(deployment, names, service)
    settings = masked(known) | {"costs": costs_named(known)}
    app = build_app(service, version=version("foretoken"), settings=settings)
    try:
        with bind(config.endpoint) as listening:
            click.echo(describe(known), err=True)
            click.echo(f"costs: {costs_named(known)}", err=True)
            click.echo(f"length head: {deployment.head}", err=True)
            click.echo(f"attention: {deployment.attention}", err=True)
            if not config.model.random_weights:
                for line in few_bits.told(Path(config.checkpoint), deployment.model):
                    click.echo(line, err=True)
            if model.defaults != SamplingDefaults():
                click.echo(f"sampled by default with {model.defaults}", err=True)
            if (notice := route_notice(config.policy)) is not None:
                click.echo(notice, err=True)
            if config.model.random_weights:
                click.echo(random_notice(config, tokenizer), err=True)
            cold = load_workers(deployment, grammars)
            settings["kv-pages"] = tell_memory(deployment, cold)
            listen(listening, config.endpoint)
            hung = uvloop.run(_serve(config, engine, cold, app, listening))
    finally:
        if trials is not None:
            trials.close()
        if decisions is not None:
            decisions.close()
    if hung:
        click.echo(f"ended without {', '.join(hung)}, whose thread hangs in a step", err=True)
        os._exit(HUNG)  # the interpreter, and JAX, would wait for that step
    return 0


def tell_memory(deployment: Deployment, cold: Sequence[ColdWorker]) -> dict[WorkerId, int]:
    """Print the pages that each worker's pool has, and return them; and what the host could do."""
    pages = {worker.mesh.worker: worker.limits.num_pages for worker in cold}
    click.echo(f"kv-pages: {', '.join(f'{w} {n}' for w, n in pages.items())}", err=True)
    if (notice := host_notice(deployment, cold)) is not None:
        click.echo(notice, err=True)
    return pages


def log_requests() -> None:
    """Let the lines of requests go to standard error without anybody waiting for it."""
    lines = Unhurried(sys.stderr.fileno())
    lines.setFormatter(logging.Formatter(LOG_FORMAT))
    access = logging.getLogger(ACCESS)
    access.addHandler(lines)
    access.setLevel(logging.INFO)
    access.propagate = False


def find_tokenizer(deployment: Deployment) -> Tokenizer:
    """Load the checkpoint's tokenizer; with random weights it may be missing, and ids stand for it.

    Raises CheckpointError, and ConfigError for a chat template without a tokenizer.
    """
    config, model = deployment.config, deployment.model
    path, template = Path(config.checkpoint), config.model.chat_template
    if config.model.random_weights and not (path / TOKENIZER).exists():
        require(template is None, f"--chat-template needs a {TOKENIZER} in {path}; leave it out")
        return IdTokenizer(model.vocab_size, model.eos_ids)
    return load_tokenizer(path, chat_template=template)


def find_grammars(tokenizer: Tokenizer) -> Grammars | None:
    """Make grammars over a tokenizer's tokens; without one replies have no text to constrain."""
    if isinstance(tokenizer, IdTokenizer):
        return None
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    return Grammars(pieces, tokenizer.special_ids)


def find_defaults(config: ServerConfig) -> SamplingDefaults:
    """Say how to sample where a request does not; raises CheckpointError."""
    if config.model.generation_config == "none":
        return SamplingDefaults()
    return read_sampling_defaults(config.checkpoint)


def filled_in(deployment: Deployment, names: tuple[str, ...], service: Service) -> ServerConfig:
    """Return the settings in force: what was left open is what was worked out for it.

    All but the number of pages, which is known once the meshes are; it may differ by worker.
    """
    config = deployment.config
    parser = service.call_format.name if service.call_format else NONE
    hardware = choose_hardware(config.costs.hardware, jax.devices()[0].device_kind)
    return replace(
        config,
        memory=replace(config.memory, max_model_len=deployment.max_model_len),
        costs=replace(config.costs, hardware=hardware.name),
        endpoint=replace(config.endpoint, served_model_name=names, tool_call_parser=parser),
    )


def costs_named(config: ServerConfig) -> str:
    """Say what durations are predicted from."""
    return config.costs.costs or f"estimated for {config.costs.hardware}"


def random_notice(config: ServerConfig, tokenizer: Tokenizer) -> str:
    """Say what an operator must know before anybody reads a reply."""
    notice = f"RANDOM WEIGHTS (--random-weights, --seed {config.model.seed}): replies mean nothing"
    if isinstance(tokenizer, IdTokenizer):
        notice += f"; no {TOKENIZER}: prompts must be token ids, to /v1/completions"
    return notice


def open_decision_log(config: ServerConfig, labels: ServerLabels) -> DecisionLog | None:
    """Open the log of decisions, if one is wanted; raises ConfigError if that cannot be."""
    path = config.policy.decision_log
    if path is None:
        return None
    policies = asdict(config.policy)
    del policies["decision_log"]
    opening = {
        "version": version("foretoken"),
        "workers": {worker: role.value for worker, role in labels.workers},
        "policies": policies,
    }
    return DecisionLog(Path(path), opening, time.monotonic())


def count_compilations(metrics: Metrics) -> None:
    """Let JAX tell the metrics of every program that it compiles: after warm-up, none."""

    def listen(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == COMPILE_EVENT:
            metrics.on_compile()

    jax.monitoring.register_event_duration_secs_listener(listen)


def bind(endpoint: EndpointConfig) -> socket.socket:
    """Take the port; raises ConfigError if it or the address cannot be had."""
    listening = socket.socket(socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((endpoint.host, endpoint.port))
    except OSError as error:
        listening.close()
        raise _not_had(endpoint, error) from error
    return listening


def listen(listening: socket.socket, endpoint: EndpointConfig) -> None:
    """Take connections from now on.

    Raises ConfigError if another server does: two may bind a port while neither listens yet.
    """
    try:
        listening.listen(BACKLOG)
    except OSError as error:
        raise _not_had(endpoint, error) from error


def address(listening: socket.socket, endpoint: EndpointConfig) -> str:
    """Return where clients find the server: with the port that the system chose for port 0."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    return f"http://{host}:{listening.getsockname()[1]}"


def _not_had(endpoint: EndpointConfig, error: OSError) -> ConfigError:
    where = f"{endpoint.host}:{endpoint.port}"
    no_such_host = isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL
    flag = "--host" if no_such_host else "--port"
    return ConfigError(f"cannot listen on {where}: {error.strerror}; choose another {flag}")


def open_many_files() -> None:
    """Raise the limit of open files as far as it may be: each connection is one.

    Many systems begin with 1,024, for the sake of programs that cannot count further.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # some systems state a limit that they do not allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def drain_notice(turns: int, grace_s: float) -> str:
    """Tell an operator who has asked for the end what is waited for, and how not to wait."""
    if not turns:
        return "draining: no turn is running"
    waited_for = "1 turn" if turns == 1 else f"{turns} turns"
    return (
        f"draining: waiting for {waited_for}, for at most {grace_s:g} s;"
        " a second Ctrl-C (or SIGTERM) ends the process at once"
    )


async def _serve(
    config: ServerConfig,
    engine: EngineLoop,
    cold: Sequence[ColdWorker],
    app: ASGIApp,
    listening: socket.socket,
) -> Sequence[WorkerId]:
    """Serve until drained; returns the workers that hang. Raises what the warm-up raised."""
    endpoint, schedule = config.endpoint, config.schedule
    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()

    def on_signal() -> None:
        if stopping.is_set() or engine.state is EngineState.STARTING:
            os._exit(0)  # nothing runs yet, or the operator insists
        loop.call_soon_threadsafe(stopping.set)

    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        loop.add_signal_handler(signal.SIGHUP, on_signal)
    server = DrainingServer(
        uvicorn.Config(
            app,
            log_config=None,  # its lines go where all others go, and have their times
            log_level=endpoint.uvicorn_log_level,
            root_path=endpoint.root_path,
            lifespan="off",
            access_log=False,
            http=Connection,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=CLOSE_S,
        ),
        on_signal,
    )
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        workers = await asyncio.to_thread(warm_up, cold, engine.post, time.monotonic)
        gc.collect()
        gc.freeze()  # what is here stays: no collection shall look through it and stop everyone
        await engine.start(workers)
        click.echo(f"ready at {address(listening, endpoint)}", err=True)
        await asyncio.wait(
            (asyncio.create_task(stopping.wait()), serving), return_when=asyncio.FIRST_COMPLETED
        )
        grace_s = schedule.drain_timeout_seconds
        click.echo(drain_notice(engine.live_turns, grace_s), err=True)
        await engine.drain(grace_s)
    finally:
        server.should_exit = True
        await serving
        hung = await engine.stop()
    return hung
