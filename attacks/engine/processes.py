"""One iterator over the results of several processes, each with one core and a share of the work.

Threads would wait for each other, because an attack runs hundreds of small Python steps between two model calls. The
processes are forks, so models need not be picklable and images are not copied.
"""

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from advdpnp.base.devices import OUT_OF_MEMORY
from advdpnp.base.errors import AdvdpnpError, first_line

T = TypeVar("T")


def can_fork() -> bool:
    """Whether this process can fork workers: on Linux, without a GPU in use, and if it is not a worker itself."""
    return sys.platform == "linux" and not torch.cuda.is_initialized() and not multiprocessing.current_process().daemon


def run_in_processes(work: Callable[[int], Iterator[T]], count: int) -> Generator[T, None, None]:
    """Yield the values of ``work(0)`` to ``work(count - 1)`` as they arrive. They must be picklable.

    The workers end with the iterator and with this process, even if this process is killed.

    Raises:
        AdvdpnpError: a worker raised it, or exited.
        KeyboardInterrupt: a worker was terminated by SIGTERM.
    """
    context = multiprocessing.get_context("fork")
    parent, running = os.getpid(), {}
    try:
        for number in range(count):
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(work, number, sender, parent), daemon=True)
            process.start()
            sender.close()
            running[receiver] = process
        while running:
            for connection in wait(list(running)):
                assert isinstance(connection, Connection)
                kind, value = _receive(connection, running[connection])
                if kind == "value":
                    yield value
                elif kind == "raised":
                    raise value
                else:
                    running.pop(connection).join()
    finally:
        for process in running.values():
            process.kill()
            process.join()


def _receive(connection: Connection, process: Any) -> tuple[str, Any]:
    try:
        return pickle.loads(connection.recv_bytes())  # type: ignore[no-any-return]
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGTERM:  # SLURM signals all processes, and this one may get it later
            raise KeyboardInterrupt from None
        raise AdvdpnpError(
            f"a worker process exited (exit code {process.exitcode}; -9 usually means out of memory); run the "
            "same command again, with fewer cores (OMP_NUM_THREADS=1) if memory is short"
        ) from None


def _serve(work: Callable[[int], Iterator[Any]], number: int, connection: Connection, parent: int) -> None:
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # a terminal signals all processes; the parent stops the workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with(parent)
    _keep_to_one_thread()
    with suppress(BrokenPipeError):
        try:
            for value in work(number):
                connection.send_bytes(pickle.dumps(("value", value)))
            connection.send_bytes(pickle.dumps(("done", None)))
        except BrokenPipeError:
            raise
        except (AdvdpnpError, *OUT_OF_MEMORY) as error:
            connection.send_bytes(pickle.dumps(("raised", error)))
        except BaseException as error:
            connection.send_bytes(pickle.dumps(("raised", _as_sent(error))))


def _keep_to_one_thread() -> None:
    """Threads of the parent do not exist in a fork, which waits for them forever where a model's code asks for them."""
    torch.set_num_threads(1)
    torch.set_num_threads = lambda count: None  # type: ignore[assignment]


def _as_sent(error: BaseException) -> BaseException:
    """The error if it can be pickled, otherwise a RuntimeError with its message."""
    try:
        return pickle.loads(pickle.dumps(error))  # type: ignore[no-any-return]
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {first_line(error)}")


def _die_with(parent: int) -> None:
    """Make the kernel kill this process when ``parent`` dies; a killed parent cannot stop its workers."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(1)
