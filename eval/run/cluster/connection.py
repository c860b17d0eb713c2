"""Ray: started on this machine or joined, without its chatter, and with the user's own modules on every worker."""

import logging
import os
import re
import signal
import socket
import sys
import sysconfig
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from advdpnp.base.errors import AdvdpnpError, describe
from advdpnp.base.files import writing
from advdpnp.models.loading import LoadedModel

_ADDRESS = re.compile(r"local|auto|(ray://)?[^/:\s]+:\d+")
_STORE_BYTES = 2**30  # of the object store of a Ray that is started here: models and images, each once
_ANSWERS = 10.0  # seconds until a cluster must answer
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # as without Ray
}


@dataclass(frozen=True)
class Cluster:
    """Where an evaluation runs.

    Attributes:
        address: "local" starts Ray on this machine; "auto" joins the cluster that this machine is part of;
            "ray://HOST:10001" connects to one from outside.
        per_gpu: how many workers share a GPU.

    Raises:
        AdvdpnpError: the address is none of these, or there would be no worker.
    """

    address: str = "local"
    per_gpu: int = 1

    def __post_init__(self) -> None:
        if not _ADDRESS.fullmatch(self.address):
            raise AdvdpnpError(
                f"'{self.address}' is no cluster; give local (this machine), auto (the Ray cluster that it is part of) "
                "or ray://HOST:10001"
            )
        if self.per_gpu < 1:
            raise AdvdpnpError(f"{self.per_gpu} workers per GPU leave it idle; give 1 or more")

    def share(self, device: torch.device) -> dict[str, float]:
        """What a worker takes of the cluster's resources."""
        if device.type != "cuda":
            return {"num_cpus": 1}
        # Ray counts in ten-thousandths: seven times 0.1429 would be more than a GPU.
        return {"num_cpus": 1, "num_gpus": 10_000 // self.per_gpu / 10_000}

    def places(self, resources: Mapping[str, float], device: torch.device) -> int:
        """How many workers find a place on the resources of a cluster."""
        cores = int(resources.get("CPU", 0))
        return cores if device.type != "cuda" else min(cores, int(resources.get("GPU", 0)) * self.per_gpu)


def import_ray() -> Any:
    """The package ray.

    Raises:
        AdvdpnpError: it is not installed.
    """
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    try:
        import ray
    except ImportError as error:
        raise AdvdpnpError("a cluster needs Ray; install it with: pip install 'advdpnp[cluster]'") from error
    return ray


@contextmanager
def connected(cluster: Cluster, models: Sequence[LoadedModel], log: Path | None) -> Iterator[Any]:
    """Ray, connected to the cluster; a Ray that is started here ends with the block, any other one stays.

    Args:
        models: whose own modules the workers need.
        log: file for what Ray has to say; None drops it.

    Raises:
        AdvdpnpError: Ray is not installed or not reachable, or the file cannot be written.
    """
    ray = import_ray()
    with _logging_to(log), _without_messages(), _pickled_by_value(ray, models):
        if ray.is_initialized():  # by the program that calls us
            yield ray
            return
        options: dict[str, Any] = {"address": cluster.address}
        if cluster.address == "local":
            options |= {"num_cpus": torch.get_num_threads(), "include_dashboard": False}
            options |= {"object_store_memory": _STORE_BYTES}
        shipped = shipped_modules(models)
        if shipped:
            options["runtime_env"] = {"py_modules": [str(path) for path in shipped]}
        with _handlers_restored():
            try:
                _require_answer(cluster.address)
                ray.init(log_to_driver=False, logging_level=logging.INFO, **options)
            except Exception as error:
                raise AdvdpnpError(
                    f"there is no Ray cluster at '{cluster.address}' ({describe(error)}); start one with `ray start "
                    "--head`, or use --cluster local"
                ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def workers_died(count: int, of: str) -> AdvdpnpError:
    """What to say, and to do, when so many workers have died: "of the same work", "before they were ready"."""
    return AdvdpnpError(
        f"{count} workers died {of}; if memory is short, have fewer of them (--per-gpu, OMP_NUM_THREADS); see "
        "/tmp/ray/session_latest/logs"
    )


def cluster_device(ray: Any, device: str | None) -> torch.device:
    """The device of the workers: GPUs if the cluster has any, unless ``device`` says otherwise.

    Raises:
        AdvdpnpError: it has none of these devices.
    """
    has = ray.cluster_resources()
    kind = ("cuda" if has.get("GPU") else "cpu") if device in (None, "auto") else str(device).partition(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not has.get("GPU")):
        raise AdvdpnpError(f"the cluster has no device '{device}'; leave out --device, or choose cpu")
    return torch.device(kind)  # Ray shows each worker its own GPU alone


@contextmanager
def _logging_to(log: Path | None) -> Iterator[None]:
    """Write what the package ray logs in this process to a file instead of the screen."""
    logger = logging.getLogger("ray")
    before, propagate = list(logger.handlers), logger.propagate
    handler: logging.Handler = logging.NullHandler()
    if log is not None:
        with writing(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(log, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagate
        handler.close()


@contextmanager
def _without_messages() -> Iterator[None]:
    """Log what Ray has to say of a worker that died, which it prints whatever ``log_to_driver`` is."""
    worker: Any = sys.modules.get("ray._private.worker")
    printed = getattr(worker, "print_to_stdstream", None)
    if printed is None:  # in another version of Ray
        yield
        return

    def log(data: Mapping[str, Any], *_: Any, **__: Any) -> None:
        logging.getLogger("ray").warning("%s", "\n".join(map(str, data.get("lines", ()))))

    worker.print_to_stdstream = log
    try:
        yield
    finally:
        worker.print_to_stdstream = printed


def _require_answer(address: str) -> None:
    """Ray would wait for minutes at an address where nothing listens, such as that of a cluster which has ended.

    Raises:
        OSError: nothing listens.
    """
    if address == "local" or address.startswith("ray://"):  # of a client it says so itself
        return
    from ray._private import services

    find = getattr(services, "canonicalize_bootstrap_address", lambda _: None)  # other versions of Ray may lack it
    host, _, port = (find(address) or "").rpartition(":")
    if port:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS).close()


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Keep the program's own handlers of signals, which ``ray.init`` replaces."""
    numbers = [signal.SIGTERM, signal.SIGINT] if threading.current_thread() is threading.main_thread() else []
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _own_modules(models: Sequence[LoadedModel]) -> list[ModuleType]:
    """The modules of the models' classes that are neither installed nor part of Python or of this package."""
    names = {type(module).__module__ for loaded in models for module in loaded.model.modules()}
    found = [sys.modules[name] for name in sorted(names) if name in sys.modules]
    return [module for module in found if _is_own(module)]


def _is_own(module: ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if not file or module.__name__.partition(".")[0] in ("advdpnp", "__main__"):
        return False
    return not any(Path(file).resolve().is_relative_to(path) for path in _installed())


@cache
def _installed() -> list[Path]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return [Path(sysconfig.get_path(name)).resolve() for name in names]


def shipped_modules(models: Sequence[LoadedModel]) -> list[Path]:
    """Files and packages that workers need beside what is installed: the models' own, and those beside these that
    have been imported with them.
    """
    if not (own := _own_modules(models)):
        return []
    folders = {_top_level(module).parent for module in own}
    beside = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None) and _is_own(module)]
    tops = {_top_level(module) for module in beside if not module.__name__.endswith(".py")}
    return sorted(top for top in tops if top.parent in folders)


def _top_level(module: ModuleType) -> Path:
    """The file or the folder of the package that a module belongs to."""
    path = Path(str(module.__file__)).resolve()
    if module.__name__.endswith(".py"):  # a file that was given as FILE.py:factory
        return path
    depth = module.__name__.count(".") + (path.name == "__init__.py")
    return path.parents[depth - 1] if depth else path


@contextmanager
def _pickled_by_value(ray: Any, models: Sequence[LoadedModel]) -> Iterator[None]:
    """Send the code of ``FILE.py:factory`` with the model: no worker can import a module that is named by a path."""
    named_by_path = [module for module in _own_modules(models) if module.__name__.endswith(".py")]
    for module in named_by_path:
        ray.cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in named_by_path:
            with suppress(ValueError):
                ray.cloudpickle.unregister_pickle_by_value(module)
