"""A cluster in this process: what ``Driver`` asks of Ray, with workers that can be killed at a chosen job."""

import contextlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import ray.cloudpickle

from advdpnp.eval.run import evaluate
from advdpnp.eval.run.cluster import calls, driver
from advdpnp.eval.run.cluster.worker import Job


class RayError(Exception): ...


class RayTaskError(RayError):
    @property
    def cause(self) -> BaseException | None:
        return self.__cause__

    def as_instanceof_cause(self) -> BaseException:
        assert self.__cause__ is not None
        return self.__cause__


class ActorDiedError(RayError): ...


class ActorUnavailableError(RayError): ...


@dataclass(eq=False)
class Call:
    """A call of a worker that runs when it is waited for."""

    actor: "Actor | None"
    run: Callable[[], Any]


@dataclass(eq=False)
class Method:
    actor: "Actor"
    name: str

    def remote(self, *arguments: Any) -> Call:
        sent = ray.cloudpickle.dumps(arguments)
        return Call(self.actor, lambda: self.actor.call(self.name, pickle.loads(sent)))


class Actor:
    def __init__(self, cluster: "FakeRay", make: Callable[[], Any]) -> None:
        self.number = len(cluster.actors)
        self._cluster, self._make = cluster, make
        self._worker: Any = None
        self.hello, self.do = Method(self, "hello"), Method(self, "do")
        self.killed = False

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if name == "hello" and (error := self._cluster.strike_at_start(self.number)) is not None:
            raise error
        self._worker = self._worker or self._make()
        if name == "do" and (error := self._cluster.strike(arguments[0])) is not None:
            self._worker = None
            raise error
        try:
            answer = getattr(self._worker, name)(*arguments)
        except Exception as error:
            raise RayTaskError from error
        return pickle.loads(ray.cloudpickle.dumps(answer))


@dataclass
class FakeRay:
    """What ``Driver`` uses of the package ray.

    Attributes:
        resources: what the cluster has; may change.
        strike: asked before every job; returns the error that the worker dies with, or None.
        strike_at_start: the same before a worker says hello, given its number.
        strike_call: the same before a call of a function, given its argument.
        cancelled: calls that were.
        all_at_once: whether all calls that were made are ready when one is.
        jobs: all that were done.
    """

    resources: dict[str, float] = field(default_factory=lambda: {"CPU": 2.0})
    strike_at: Callable[[Job], Exception | None] = lambda job: None
    strike_at_start: Callable[[int], Exception | None] = lambda number: None
    strike_call: Callable[[Any], Exception | None] = lambda call: None
    cancelled: list[Call] = field(default_factory=list)
    all_at_once: bool = False
    jobs: list[Job] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)
    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError, ActorDiedError=ActorDiedError)

    def strike(self, job: Job) -> Exception | None:
        error = self.strike_at(job)
        if error is None:
            self.jobs.append(job)
        return error

    def cluster_resources(self) -> dict[str, float]:
        return self.resources

    def put(self, value: Any) -> bytes:
        return ray.cloudpickle.dumps(value)  # type: ignore[no-any-return]

    def get(self, reference: Any) -> Any:
        return reference.run() if isinstance(reference, Call) else pickle.loads(reference)

    def wait(self, calls: list[Call], *, num_returns: int = 1, timeout: float) -> tuple[list[Call], list[Call]]:
        count = len(calls) if self.all_at_once and num_returns > 1 else 1
        return calls[:count], calls[count:]

    def kill(self, actor: Actor) -> None:
        actor.killed = True

    def cancel(self, call: Call, *, force: bool) -> None:
        self.cancelled.append(call)

    def _called(self, function: Callable[..., Any], options: dict[str, Any], arguments: tuple[Any, ...]) -> Call:
        sent = ray.cloudpickle.dumps(arguments)

        def run() -> Any:
            known = [self.get(each) if isinstance(each, bytes) else each for each in pickle.loads(sent)]
            for left in reversed(range(1 + options["max_retries"])):
                if (error := self.strike_call(known[2])) is None:
                    return pickle.loads(ray.cloudpickle.dumps(function(*known)))
                if not left:
                    raise error
            return None

        return Call(None, run)

    def remote(self, **options: Any) -> Callable[[type], Any]:
        def wrap(kind: Any) -> Any:
            if not isinstance(kind, type):
                return SimpleNamespace(remote=lambda *arguments: self._called(kind, options, arguments))

            def start(*arguments: Any) -> Actor:
                get, *others = arguments
                self.actors.append(Actor(self, lambda: kind(get, *others)))
                return self.actors[-1]

            return SimpleNamespace(remote=start)

        return wrap


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    """A cluster in this process, which every evaluation with ``cluster`` runs on."""
    cluster = FakeRay()
    monkeypatch.setattr(evaluate, "connected", lambda *arguments: contextlib.nullcontext(cluster))
    monkeypatch.setattr(calls, "connected", lambda *arguments: contextlib.nullcontext(cluster))
    monkeypatch.setattr(driver, "_LOOK_AROUND", 0.0)
    return cluster
