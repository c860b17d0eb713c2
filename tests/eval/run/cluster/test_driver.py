"""On a cluster the same verdicts come out, whichever workers die, join or leave, and nothing else is searched twice."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from advdpnp.attacks.engine.search import search
from advdpnp.attacks.packages.library_attack import LibraryAttack
from advdpnp.base.errors import AdvdpnpError, ModelError
from advdpnp.datasets import Dataset
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.run.cluster import worker
from advdpnp.eval.run.cluster.connection import Cluster
from advdpnp.eval.run.cluster.worker import Worker
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.evaluate import run_models
from advdpnp.eval.run.results import ResultsFolder
from advdpnp.eval.store.key import of_ranges
from advdpnp.eval.store.reader import find_results
from advdpnp.models.loading import LoadedModel, as_loaded

ATTACKS = "fgsm,pgd-4"
ALL_KINDS = f"{ATTACKS},fab-t,pyautoattack:apgd-ce"
EVERYTHING = {"save_adversarials": True, "attacks": ALL_KINDS, "eps": ["0.3", "0.6"]}


def evaluated(out: Path, models: list[LoadedModel], data: Dataset, cluster: Cluster | None, **options: Any) -> Path:
    arguments: dict[str, Any] = {"attacks": ATTACKS, "norm": "l2", "eps": ["0.3"], "device": "cpu"} | options
    transfer_from = arguments.pop("transfer_from", ())
    run_models(
        models, data, EvaluationConfig.of(**arguments), ResultsFolder(out), transfer_from=transfer_from,
        cluster=cluster, components=Components(static_batch_size=16), command="test",
    ).raise_problems()  # fmt: skip
    return out


def left(out: Path) -> dict[str, Any]:
    """Verdicts and what else is stored of an evaluation, without times, devices and the order of images."""
    found: dict[str, Any] = {}
    for unit in find_results([out]):
        name = (unit.model.name, unit.record.stem)
        found[name] = unit.frame
        found[*name, "facts"] = (unit.record.identity, unit.record.metadata, unit.record.saved)
        images = unit.examples()
        found[*name, "images"] = {key: value.tolist() for key, value in images.items()}
        found[*name, "measured"] = [measured.numbers for measured in unit.diagnostics()]
    return found


def assert_same(out: Path, expected: Path) -> None:
    one, other = left(out), left(expected)
    assert one.keys() == other.keys()
    for key, value in one.items():
        if isinstance(value, pd.DataFrame):
            pd.testing.assert_frame_equal(value, other[key])
        else:
            assert value == other[key], key
    assert not list(out.rglob(".parts"))


@pytest.fixture
def models(net: Any) -> list[LoadedModel]:
    return [as_loaded(net(), "one"), as_loaded(net(0.4), "two")]


@pytest.fixture
def alone(tmp_path: Path, models: list[LoadedModel], data: Dataset) -> Path:
    return evaluated(tmp_path / "alone", models, data, None, save_adversarials=True)


_FOUND: dict[str, Path] = {}


@pytest.fixture
def every_kind(tmp_path_factory: pytest.TempPathFactory, models: list[LoadedModel], data: Dataset) -> Path:
    """What one process finds with searches, minimum-norm searches at two radii, and an attack of a package."""
    if not _FOUND:
        out = tmp_path_factory.mktemp("alone")
        _FOUND["alone"] = evaluated(
            out, models, data, None, save_adversarials=True, attacks=ALL_KINDS, eps=["0.3", "0.6"]
        )
    return _FOUND["alone"]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_any_number_of_workers_finds_what_one_process_finds(fake, tmp_path, models, data, every_kind, workers):
    fake.resources["CPU"], alone = workers, every_kind
    out = evaluated(
        tmp_path / "cluster", models, data, Cluster(), save_adversarials=True, attacks=ALL_KINDS, eps=["0.3", "0.6"]
    )
    assert_same(out, alone)
    assert len(fake.actors) == workers
    assert all(actor.killed for actor in fake.actors)
    for unit in find_results([out]):
        assert all(part.intact.all() for part in unit.adversarials(data.test.some_images, len(data.test)))
    assert data_files(out) == data_files(alone)


def data_files(out: Path) -> dict[str, bytes]:
    """Verdicts and adversarial images, as they are on disk."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def test_corruptions_and_transferred_images_are_judged_on_workers_too(fake, tmp_path, net, data):
    images = torch.randint(0, 256, (20, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)).eval()
    other = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)).eval()
    split = type(data.test)(images, torch.arange(20) % 4)
    colour = Dataset("colour", tuple("abcd"), split.head(0), split.head(0), split, "none")
    arguments = {
        "attacks": "fgsm", "norm": "linf", "eps": ["0.02"], "corruptions": "regenerated",
        "corruption_types": ["gaussian_noise", "contrast"], "transfer_from": [as_loaded(other, "other")],
    }  # fmt: skip
    expected = evaluated(tmp_path / "alone", [as_loaded(model, "net")], colour, None, **arguments)
    out = evaluated(tmp_path / "cluster", [as_loaded(model, "net")], colour, Cluster(), **arguments)
    assert_same(out, expected)
    assert len([unit for unit in find_results([out]) if unit.label.startswith("corruption/")]) == 10


def test_a_piece_of_a_dead_worker_runs_again_and_nothing_else_does(fake, tmp_path, models, data, alone):
    from tests.eval.run.cluster import conftest

    deaths = iter([conftest.ActorUnavailableError(), conftest.ActorDiedError(), None])
    lost = []

    def strike(job):
        if job.piece is not None and len(fake.jobs) > 6 and (error := next(deaths, None)) is not None:
            lost.append(job)
            return error
        return None

    fake.strike_at = strike
    out = evaluated(tmp_path / "cluster", models, data, Cluster(), save_adversarials=True)
    assert_same(out, alone)
    assert len(lost) == 2
    assert searched_twice(fake) == {}


def searched_twice(fake: Any) -> dict[Any, int]:
    """Samples that more than one piece has judged."""
    judged = Counter(
        (job.model, unit, sample)
        for job in fake.jobs
        if job.piece is not None
        for unit, samples in job.piece.units
        for sample in samples.tolist()
    )
    return {key: count for key, count in judged.items() if count > 1}


def test_a_piece_that_kills_every_worker_is_given_up_with_a_sentence(fake, tmp_path, models, data):
    from tests.eval.run.cluster import conftest

    fake.strike_at = lambda job: conftest.ActorUnavailableError() if job.piece is not None else None
    with pytest.raises(AdvdpnpError, match="4 workers died of the same images of one"):
        evaluated(tmp_path, models, data, Cluster())


@pytest.mark.parametrize("kind", ["look", "measure"])
def test_a_model_that_kills_every_worker_before_its_first_piece_is_given_up_too(fake, tmp_path, models, data, kind):
    from tests.eval.run.cluster import conftest

    def strike(job):
        struck = job.look is None if kind == "look" else job.measure is not None
        return conftest.ActorUnavailableError() if struck and job.model == 0 else None

    fake.strike_at = strike
    with pytest.raises(AdvdpnpError, match="4 workers died of the same images of one"):
        evaluated(tmp_path, models, data, Cluster())


def test_workers_that_die_before_they_are_ready_end_it_with_a_sentence(fake, tmp_path, models, data):
    from tests.eval.run.cluster import conftest

    fake.strike_at_start = lambda number: conftest.ActorUnavailableError()
    with pytest.raises(AdvdpnpError, match="4 workers died one after the other before they were ready; if memory"):
        evaluated(tmp_path, models, data, Cluster())


def test_workers_that_die_together_before_they_are_ready_end_nothing(fake, tmp_path, models, data, alone):
    from tests.eval.run.cluster import conftest

    fake.resources["CPU"] = 6
    fake.strike_at_start = lambda number: conftest.ActorDiedError() if number < 6 else None  # their machine has left
    assert_same(evaluated(tmp_path / "cluster", models, data, Cluster(), save_adversarials=True), alone)
    assert len(fake.actors) == 12


def test_losses_do_not_add_up_while_pieces_are_done(fake, tmp_path, models, data, alone):
    from tests.eval.run.cluster import conftest

    struck: list[Any] = []

    def strike(job):
        known = sum(job.model == other.model and kind_of(job) == kind_of(other) for other in struck)
        if known < 2:
            return struck.append(job) or conftest.ActorDiedError()
        return None

    fake.strike_at = strike
    fake.strike_at_start = lambda number: conftest.ActorDiedError() if number % 3 else None
    assert_same(evaluated(tmp_path / "cluster", models, data, Cluster(), save_adversarials=True), alone)
    assert len(struck) == 2 * 3 * 2  # of two models


def kind_of(job: Any) -> str:
    return "look" if job.look is None else "measure" if job.measure is not None else "piece"


def test_the_place_of_a_worker_that_never_gets_ready_stays_empty(fake, tmp_path, models, data, alone):
    from tests.eval.run.cluster import conftest

    fake.resources["CPU"] = 3
    fake.strike_at_start = lambda number: conftest.ActorDiedError() if number >= 2 else None
    assert_same(evaluated(tmp_path / "cluster", models, data, Cluster(), save_adversarials=True), alone)
    assert len(fake.actors) == 2 + 4


def test_what_others_have_found_is_stored_when_one_fails(fake, tmp_path, models, data):
    fake.all_at_once = True
    fake.resources["CPU"] = 3
    failures = iter([None, KeyboardInterrupt()])  # the second of three answers, which are ready together

    def strike(job):
        if job.piece is not None and (failure := next(failures, None)) is not None:
            raise failure
        return None

    fake.strike_at = strike
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path, models[:1], data, Cluster(), sanity=False)
    assert len([job for job in fake.jobs if job.piece is not None]) == 2
    evaluated(tmp_path, models[:1], data, Cluster(), sanity=False)
    assert searched_twice(fake) == {}


def test_the_search_of_a_package_continues_where_its_worker_died(fake, tmp_path, models, data, monkeypatch):
    from tests.eval.run.cluster import conftest

    attack = {"attacks": "torchattacks:PGD-3", "batch_size": 7, "norm": "linf"}
    alone = evaluated(tmp_path / "alone", models[:1], data, None, **attack)
    batches = []
    search = LibraryAttack._batch

    def counted(self, model, verified, index, seed):
        batches.append(tuple(index.tolist()))
        return search(self, model, verified, index, seed)

    monkeypatch.setattr(LibraryAttack, "_batch", counted)
    monkeypatch.setattr(worker, "CHECKPOINT_SECONDS", -1.0)
    struck = []

    def strike(job):
        if job.records and len(job.records[next(iter(job.records))]) == 3 and not struck:
            return struck.append(job) or conftest.ActorUnavailableError()
        return None

    fake.strike_at = strike
    out = evaluated(tmp_path / "cluster", models[:1], data, Cluster(), **attack)
    assert struck
    assert len(batches) == len(set(batches)) > 3
    assert_same(out, alone)


def test_an_attack_that_leaves_out_samples_ends_with_a_sentence(fake, tmp_path, models, data):
    def forgetful(model, attack, x, y, sample, **options):
        for part in search(model, attack, x, y, sample, **options):
            yield part[part.sample != 3]

    components = Components(search=forgetful, static_batch_size=16)
    config = EvaluationConfig.of(attacks="fgsm", norm="l2", eps=["0.3"], device="cpu")
    with pytest.raises(AdvdpnpError, match=r"fgsm gave no verdict for 1 of \d+ samples \(first: 3\)"):
        run_models(models, data, config, ResultsFolder(tmp_path), cluster=Cluster(), components=components)


def test_what_no_worker_can_have_is_told_in_one_line(fake, tmp_path, models, data, monkeypatch):
    def hello(worker, plan):
        raise ModuleNotFoundError("No module named 'advdpnp'\n\nTraceback ...")

    def put(value):
        raise TypeError("cannot pickle this\n====\nChecking serializability ...")

    with monkeypatch.context() as patch:
        patch.setattr(Worker, "hello", hello)
        with pytest.raises(AdvdpnpError, match=r"^a worker cannot start .*'advdpnp'\); install the same Python.*$"):
            evaluated(tmp_path, models, data, Cluster())
    monkeypatch.setattr(fake, "put", put)
    with pytest.raises(
        AdvdpnpError, match=r"^\w[\w ]* cannot be sent to workers \(TypeError: cannot pickle this\); .*$"
    ):
        evaluated(tmp_path, models, data, Cluster())


@pytest.mark.parametrize("after", [1, 5, 10])
def test_a_driver_that_is_stopped_continues_from_the_store(fake, tmp_path, models, data, alone, after):
    def strike(job):
        if len(fake.jobs) == after:
            raise KeyboardInterrupt
        return None

    fake.strike_at = strike
    out = tmp_path / "cluster"
    with pytest.raises(KeyboardInterrupt):
        evaluated(out, models, data, Cluster(), save_adversarials=True)
    fake.strike_at = lambda job: None
    evaluated(out, models, data, Cluster(), save_adversarials=True)
    assert_same(out, alone)
    assert searched_twice(fake) == {}


def test_machines_that_join_are_used(fake, tmp_path, models, data, alone):
    fake.resources["CPU"] = 1

    def join(job):
        if len(fake.jobs) == 5:
            fake.resources["CPU"] = 3
        return None

    fake.strike_at = join
    assert_same(evaluated(tmp_path / "cluster", models, data, Cluster(), save_adversarials=True), alone)
    assert len(fake.actors) == 3


class Unloadable(nn.Linear):
    """Pickles, and does not come back."""

    def __reduce__(self):
        return _missing, ()


def _missing():
    raise ModuleNotFoundError("No module named 'their_nets'")


def test_a_model_that_no_worker_can_load_is_named_and_the_others_are_evaluated(fake, tmp_path, models, data):
    broken = as_loaded(nn.Sequential(nn.Flatten(), Unloadable(64, 4)).eval(), "theirs")
    with pytest.raises(ModelError, match=r"^theirs: a worker cannot load it .*their_nets.*install what it needs"):
        evaluated(tmp_path, [broken, *models], data, Cluster())
    assert {unit.model.name for unit in find_results([tmp_path])} == {"one", "two"}


class Hungry(nn.Module):
    """Has no memory for more than 8 rows."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 8:
            raise torch.OutOfMemoryError("out of memory")
        return self.last(x.flatten(1))


def test_short_memory_makes_batches_smaller(fake, tmp_path, data):
    model = as_loaded(Hungry().eval(), "hungry")
    expected = evaluated(tmp_path / "alone", [model], data, None)
    assert_same(evaluated(tmp_path / "cluster", [model], data, Cluster()), expected)


def test_the_devices_are_recorded(fake, tmp_path, models, data):
    out = evaluated(tmp_path, models[:1], data, Cluster())
    runs = [run for unit in find_results([out]) for run in unit.record.runs]
    assert {run["device"].partition(" ")[0] for run in runs} == {"cpu"}
    assert not any("judged" in run for run in runs)  # all by devices of one kind
    assert all(run["seconds"] > 0 for run in runs)


def test_where_devices_differ_it_is_recorded_who_judged_what(fake, tmp_path, models, data, monkeypatch):
    names = iter(["cpu (here)", "cpu (there)"])
    monkeypatch.setattr(worker, "device_name", lambda device: next(names))
    out = evaluated(tmp_path, models[:1], data, Cluster(), attacks="pgd-4")
    (unit,) = [unit for unit in find_results([out]) if unit.label == "pgd-4"]
    judged = {run["device"]: of_ranges(run["judged"]) for run in unit.record.runs}
    assert set(judged) == {"cpu (here)", "cpu (there)"}
    assert sorted(sample for samples in judged.values() for sample in samples) == list(range(50))
    assert sum(run["samples"] for run in unit.record.runs) == 50


def test_wrong_clusters_are_refused():
    for address in ("", "locl", "ray:/x", "http://a:1"):
        with pytest.raises(AdvdpnpError, match="is no cluster; give local"):
            Cluster(address)
    with pytest.raises(AdvdpnpError, match="idle"):
        Cluster("auto", 0)


def test_gpus_are_refused_where_there_are_none(fake, tmp_path, models, data):
    for device in ("cuda", "cuda:1", "gpu"):
        with pytest.raises(AdvdpnpError, match=f"the cluster has no device '{device}'"):
            evaluated(tmp_path, models, data, Cluster(), device=device)


def test_samples_are_counted_once(fake, tmp_path, models, data):
    evaluated(tmp_path, models, data, Cluster(), attacks="fgsm", eps=["0.3"])
    sizes = [len(job.piece.samples) for job in fake.jobs if job.piece]
    assert sum(sizes) == 2 * 2 * 50
    assert np.max(sizes) <= 50
