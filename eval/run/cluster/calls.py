"""Independent calls of one function on a cluster, as the trainings of a study. A lost one runs again."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from advdpnp.base.errors import AdvdpnpError, describe, raise_together
from advdpnp.eval.run.cluster.connection import Cluster, cluster_device, connected, workers_died

T = TypeVar("T")
_RETRIES = 3  # of a call whose worker dies


def run_calls(
    cluster: Cluster,
    function: Callable[[Any, Any, str], T],
    calls: Sequence[Any],
    *,
    shared: Any,
    device: str,
    log: Path | None,
) -> Iterator[tuple[int, T]]:
    """Yield the place of each call and its value as they arrive; what was not reached ends with the iterator.

    Args:
        function: of a module that all machines have; called with ``shared``, one of ``calls``, and the device. An
            ``AdvdpnpError`` that it raises does not stop the other calls.
        calls: can be pickled.
        shared: what all calls need; sent once.
        device: "auto", "cpu" or "cuda".
        log: file for what Ray has to say.

    Raises:
        AdvdpnpError: what calls have raised, after all others; workers of a call died again and again.
    """
    failures: list[AdvdpnpError] = []
    with connected(cluster, [], log) as ray:
        place = cluster_device(ray, device)
        remote = ray.remote(max_retries=_RETRIES, **cluster.share(place))(_call)
        reference = ray.put(shared)
        running = {remote.remote(function, reference, each, place.type): n for n, each in enumerate(calls)}
        try:
            while running:
                for ready in ray.wait(list(running), timeout=1.0)[0]:  # not longer, or Ctrl-C would wait
                    number, value = running.pop(ready), _value(ray, ready)
                    if isinstance(value, AdvdpnpError):
                        failures.append(value)
                    else:
                        yield number, value
        finally:
            for each in running:
                with suppress(Exception):
                    ray.cancel(each, force=True)
    raise_together([str(each) for each in failures])


def _call(function: Callable[[Any, Any, str], T], shared: Any, call: Any, device: str) -> T | AdvdpnpError:
    try:
        return function(shared, call, device)
    except AdvdpnpError as error:
        return error.with_traceback(None)


def _value(ray: Any, reference: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.as_instanceof_cause() from error
    except ray.exceptions.RayError as error:
        return workers_died(1 + _RETRIES, f"of the same work ({describe(error)})")
