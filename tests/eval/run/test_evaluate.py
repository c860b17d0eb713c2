import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from advdpnp.attacks.engine.precision import Choice
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.engine.status import SearchStatus
from advdpnp.attacks.protocol import RunOptions, StageRecord
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.versions import without_folder
from advdpnp.corruption import BENCHMARK
from advdpnp.datasets import Dataset, Split
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.api import evaluate, evaluate_models
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.report.leaderboard import tabulate_rows
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.device import choose_device
from advdpnp.eval.run.evaluate import requested_rows, run_models
from advdpnp.eval.run.memory import MemoryResults
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.run.results import ResultsFolder
from advdpnp.eval.run.work import ModelPlan
from advdpnp.eval.store.index import read_index
from advdpnp.eval.store.reader import find_results
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel

N, CLASSES = 90, 4


class Net(nn.Module):
    """Linear, with a BatchNorm whose buffers would move in train mode; small enough for milliseconds."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(36, CLASSES)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            weight = torch.randn(CLASSES, 36, generator=generator)
            self.head.weight.copy_(weight - weight.mean(1, keepdim=True))  # or the brightest class would win always
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x).flatten(1))  # type: ignore[no-any-return]


def loaded(model: nn.Module, name: str = "net") -> LoadedModel:
    return LoadedModel(model, name, weights_hash(model), type(model).__name__, "ce", 148, {})


@pytest.fixture
def dataset() -> Dataset:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (N, 1, 6, 6), generator=generator, dtype=torch.uint8)
    labels = Net().eval()(images / 255).argmax(1)
    labels[::10] = (labels[::10] + 1) % CLASSES  # a tenth is misclassified
    empty = Split(images[:0], labels[:0])
    return Dataset("toy", tuple("abcd"), empty, empty, Split(images, labels), "none")


SMALL = Components(static_batch_size=16)


def run(out: Path, dataset: Dataset, *models: LoadedModel, **arguments: Any) -> pd.DataFrame:
    settings: dict[str, Any] = {"attacks": "fgsm,pgd-5", "eps": ["0.02"], "device": "cpu", "components": SMALL}
    return evaluate_models(models or [loaded(Net())], dataset, out=out, **(settings | arguments))


def verdicts(out: Path) -> dict[str, pd.DataFrame]:
    return {f"{unit.label} {unit.hash}": unit.verdicts.frame for unit in find_results([out])}


def assert_same_results(a: Path, b: Path) -> None:
    first, second = verdicts(a), verdicts(b)
    assert first.keys() == second.keys()
    for name, frame in first.items():
        pd.testing.assert_frame_equal(frame, second[name])


Searches = list[tuple[str, list[int]]]
Recording = Callable[..., Components]


def test_rows_have_the_columns_that_scripts_rely_on_and_are_written(tmp_path: Path, dataset: Dataset) -> None:
    frame = run(tmp_path, dataset)
    assert list(frame.columns)[:7] == ["model", "clean", "fgsm", "pgd-5", "worst_case", "n", "flags"]
    row = frame.iloc[0]
    assert (row["model"], row["clean"], row["n"], row["dataset"]) == ("net", 90.0, N, "toy")
    assert row["clean"] > max(row["fgsm"], row["pgd-5"]) >= min(row["fgsm"], row["pgd-5"]) >= row["worst_case"] > 0
    pd.testing.assert_frame_equal(read_leaderboard(tmp_path / "leaderboard.csv"), frame)
    assert (tmp_path / "leaderboard.md").exists()
    assert (tmp_path / f"net-{weights_hash(Net())[:8]}" / "model.json").exists()


def test_an_interrupted_evaluation_continues_to_the_same_verdicts(
    tmp_path: Path, dataset: Dataset, recording: Recording
) -> None:
    expected = run(tmp_path / "whole", dataset)
    searches: Searches = []
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn", dataset, components=recording([], stop_after=30))
    frame = run(tmp_path / "torn", dataset, components=recording(searches))
    ((attack, samples),) = searches  # fgsm was complete
    assert attack == "pgd-5"
    assert 0 < len(samples) <= N - 30
    assert_same_results(tmp_path / "whole", tmp_path / "torn")
    pd.testing.assert_frame_equal(frame.drop(columns=["seconds", "date"]), expected.drop(columns=["seconds", "date"]))


def test_a_finished_evaluation_is_read_and_not_repeated(tmp_path: Path, dataset: Dataset, recording: Recording) -> None:
    first = run(tmp_path, dataset)
    searches: Searches = []
    pd.testing.assert_frame_equal(run(tmp_path, dataset, eps=["1/50"], components=recording(searches)), first)
    assert searches == []


def test_a_larger_limit_searches_only_what_is_missing(tmp_path: Path, dataset: Dataset, recording: Recording) -> None:
    assert run(tmp_path / "grown", dataset, limit=30)["n"].tolist() == [30]
    searches: Searches = []
    assert run(tmp_path / "grown", dataset, limit=50, components=recording(searches))["n"].tolist() == [50]
    assert searches == [("fgsm", list(range(30, 50))), ("pgd-5", list(range(30, 50)))]
    run(tmp_path / "whole", dataset, limit=50)
    assert_same_results(tmp_path / "grown", tmp_path / "whole")


def test_a_smaller_limit_reads_and_shows_exactly_that_many(tmp_path: Path, dataset: Dataset) -> None:
    run(tmp_path, dataset, limit=50)
    frame = run(tmp_path, dataset, limit=20)
    assert frame["n"].tolist() == [20]
    assert len(read_leaderboard(tmp_path / "leaderboard.csv")) == 1


def test_batch_size_changes_nothing(tmp_path: Path, dataset: Dataset) -> None:
    run(tmp_path / "a", dataset, batch_size=3)
    run(tmp_path / "b", dataset, batch_size=64)
    assert_same_results(tmp_path / "a", tmp_path / "b")


def test_a_search_in_bf16_is_called_so_and_is_a_unit_of_its_own(
    tmp_path: Path, dataset: Dataset, recording: Recording
) -> None:
    run(tmp_path, dataset)
    low: dict[str, Any] = {"attacks": "pgd-5", "precision": "bf16"}
    frame = run(tmp_path, dataset, **low)
    row = frame.iloc[0]
    assert abs(row["pgd-5 (bf16 search)"] - row["pgd-5"]) < 5
    searches: Searches = []
    pd.testing.assert_frame_equal(run(tmp_path, dataset, **low, components=recording(searches)), frame)
    assert not searches
    with pytest.raises(AdvdpnpError, match="no precision called '64'"):
        run(tmp_path, dataset, precision="64")


def test_auto_keeps_to_the_precision_that_a_model_has_verdicts_in_and_else_takes_the_faster_one(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def fastest(faster: str) -> None:
        def choose(*_: Any) -> Choice:
            timed.append(faster)
            return Choice(faster, {"32": 2.0, "bf16": 1.0}, 16)

        monkeypatch.setattr("advdpnp.eval.run.components.fastest_precision", choose)

    monkeypatch.setattr("advdpnp.attacks.engine.precision.computes_bf16", lambda device: True)
    auto: dict[str, Any] = {"attacks": "pgd-5", "precision": "auto"}
    fastest("bf16")
    frame = run(tmp_path, dataset, **auto, limit=20)
    assert "pgd-5 (bf16 search)" in frame
    fastest("32")
    again = run(tmp_path, dataset, **auto)
    assert "pgd-5 (bf16 search)" in again
    assert "pgd-5" not in again
    run(tmp_path, dataset, loaded(Net(seed=5), "other"), **auto)
    assert timed == ["bf16", "32"]
    assert "pgd-5" in read_leaderboard(tmp_path / "leaderboard.csv")
    folders = [path.parent for path in sorted(tmp_path.glob("*/units.json"))]
    records = [record for folder in folders for record in read_index(folder).evaluations]
    runs = [run for record in records if record.identity["label"].startswith("pgd-5") for run in record.runs]
    assert [run.get("timed") for run in runs].count({"rows": 16, "32": 2.0, "bf16": 1.0}) == 2


def test_other_weights_are_another_model(tmp_path: Path, dataset: Dataset) -> None:
    run(tmp_path, dataset, attacks="none")
    run(tmp_path, dataset, loaded(Net(seed=5)), attacks="none")
    assert len(list(tmp_path.glob("net-*"))) == 2
    assert len(read_leaderboard(tmp_path / "leaderboard.csv")) == 2


def test_equal_weights_that_compute_something_else_are_refused(tmp_path: Path, dataset: Dataset) -> None:
    class Inverted(Net):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    run(tmp_path, dataset, attacks="none")
    with pytest.raises(AdvdpnpError, match="its code has changed"):
        run(tmp_path, dataset, loaded(Inverted()), attacks="none")
    run(tmp_path, dataset, loaded(Inverted(), "inverted"), attacks="none")


def test_one_answer_that_is_no_number_does_not_hide_changed_code(tmp_path: Path, dataset: Dataset) -> None:
    class Partly(Net):
        turned = False

        def forward(self, x: Tensor) -> Tensor:
            logits = super().forward(x)
            dark = x.flatten(1).mean(1, keepdim=True) <= limit
            return torch.where(dark, logits + torch.nan, -logits if self.turned else logits)

    class Inverted(Partly):
        turned = True

    limit = (dataset.test.images[:8].float() / 255).flatten(1).mean(1).min() + 1e-6
    run(tmp_path, dataset, loaded(Partly()), attacks="none")
    run(tmp_path, dataset, loaded(Partly()), attacks="none", limit=20)
    for changed in (Inverted(), Net()):
        with pytest.raises(AdvdpnpError, match="its code has changed"):
            run(tmp_path, dataset, loaded(changed), attacks="none")


def test_without_attacks_there_is_clean_accuracy_on_exactly_the_samples(tmp_path: Path, dataset: Dataset) -> None:
    frame = run(tmp_path, dataset, attacks="none", limit=20)
    assert list(frame.columns)[:5] == ["model", "clean", "worst_case", "n", "flags"]
    assert frame[["clean", "n"]].to_numpy().tolist() == [[90.0, 20]]
    assert frame["worst_case"].isna().all()


def test_every_eps_is_a_row_and_another_norm_joins_the_written_table(tmp_path: Path, dataset: Dataset) -> None:
    frame = run(tmp_path, dataset, eps=["0.01", "8/255", "0.01"])
    assert frame["eps_text"].tolist() == ["0.01", "8/255"]
    assert frame["worst_case"].is_monotonic_decreasing
    frame = run(tmp_path, dataset, norm="l2", eps=["0.1"])
    assert frame["norm"].tolist() == ["l2"]
    assert read_leaderboard(tmp_path / "leaderboard.csv")["norm"].tolist() == ["l2", "linf", "linf"]


def test_model_and_random_generators_are_left_as_they_were(tmp_path: Path, dataset: Dataset) -> None:
    model = Net()
    model.train()
    model.norm.eval()
    model.head.bias.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(3)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]
    run(tmp_path, dataset, loaded(model))
    assert model.training
    assert not model.norm.training
    assert model.head.weight.requires_grad
    assert not model.head.bias.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert (np.random.get_state()[1] == states[2]).all()  # type: ignore[index]


def test_randomised_models_are_flagged(tmp_path: Path, dataset: Dataset) -> None:
    class Noisy(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + 0.01 * torch.randn_like(x))

    frame = run(tmp_path, dataset, loaded(Noisy()), limit=20, attacks="fgsm")
    assert frame["flags"].tolist() == ["randomised"]
    assert frame["forwards"].iloc[0] >= 20 * 20


def test_examples_are_kept_of_the_first_samples(tmp_path: Path, dataset: Dataset) -> None:
    run(tmp_path, dataset)
    units = {unit.label: unit for unit in find_results([tmp_path])}
    assert {label: unit.record.images for label, unit in units.items()} == {"clean": 0, "fgsm": 8, "pgd-5": 8}
    stored = units["pgd-5"].examples()
    assert stored["sample"].tolist() == list(range(8))
    np.testing.assert_array_equal(stored["x"], dataset.test.images[:8].numpy() / np.float32(255))
    assert 0 < np.abs(stored["x_adv"] - stored["x"]).max() <= 0.02 + 1e-6


def test_progress_is_told_of_every_sample(tmp_path: Path, dataset: Dataset) -> None:
    class Log(Progress):
        def __init__(self) -> None:
            self.units: list[tuple[str, str, int, int]] = []
            self.counts: list[list[int]] = []
            self.plans: list[ModelPlan] = []
            self.statuses: list[SearchStatus] = []

        def plan(self, plan: ModelPlan) -> None:
            self.plans.append(plan)

        def search(self, status: SearchStatus) -> None:
            self.statuses.append(status)

        def start(self, model: str, unit: str, total: int, done: int) -> None:
            self.units.append((model, unit, total, done))
            self.counts.append([0, 0])

        def advance(self, samples: int, robust: int) -> None:
            self.counts[-1][0] += samples
            self.counts[-1][1] += robust

    log = Log()
    frame = run(tmp_path, dataset, progress=log)
    assert log.units == [("net", unit, N, 0) for unit in ("clean", "fgsm, linf 0.02", "pgd-5, linf 0.02")]
    assert [count for count, _ in log.counts] == [N] * 3
    assert log.counts[2][1] == round(frame["pgd-5"].iloc[0] * N / 100)
    assert [(work.unit, work.samples, work.cost) for work in log.plans[0].work] == [
        ("clean", N, 1), ("fgsm, linf 0.02", N, 2), ("pgd-5, linf 0.02", N, 10)
    ]  # fmt: skip
    assert 0.8 < log.plans[0].right < 1  # of the first batch
    assert log.statuses[-1].left == 0
    again = Log()
    run(tmp_path, dataset, progress=again, attacks="fgsm,pgd-5,pgd-6")
    assert [work.samples for work in again.plans[0].work] == [0, 0, 0, N]  # what is stored is no work


@dataclass(frozen=True)
class Package:
    """A whole-batch attack of two stages of two batches: stage s breaks the samples with sample % 4 == s."""

    threat: ThreatModel
    log: list[Any]
    stop_at: tuple[int, int] | None = None
    name: str = "package"
    norms: tuple[str, ...] = ("linf",)

    def definition(self) -> dict[str, Any]:
        return {"attack": "package"}

    def run(self, model: nn.Module, samples: Batch, options: RunOptions) -> Iterator[Any]:
        x, y, sample, done = samples.x, samples.y, samples.sample, options.done
        misclassified = done[-1].misclassified[0].bool() if done else torch.zeros(len(x), dtype=torch.bool)
        passed = {(int(record.stage), int(record.batch)) for record in done}
        for stage in range(2):
            for batch in range(2):
                if (stage, batch) in passed:
                    continue
                if (stage, batch) == self.stop_at:
                    raise KeyboardInterrupt
                self.log.append((len(x), stage, batch))
                misclassified = misclassified | ((sample % 4 == stage) & (sample % 2 == batch))
                values = {
                    "stage": torch.tensor([stage]),
                    "batch": torch.tensor([batch]),
                    "misclassified": misclassified[None].long(),
                }
                names = {field.name for field in fields(StageRecord)}
                yield StageRecord(**{name: values.get(name, torch.zeros(1, len(x)).long()) for name in names})
        no, zero = torch.zeros_like(misclassified), torch.zeros_like(y)
        clean = model(x).argmax(1)
        broken = misclassified | (clean != y)
        wrong = torch.where(misclassified & (clean == y), (y + 1) % CLASSES, clean)
        norm = torch.where(broken, 0.0, torch.inf).double()
        yield AttackResult(sample, y, clean, wrong, broken, norm, zero.float(), zero, zero, no, no, zero, zero, x)


def using(make: Callable[[ThreatModel], Any]) -> Components:
    return replace(SMALL, resolve_attacks=lambda text, threat, *_: [("package", make(threat))])


def test_a_whole_batch_attack_continues_after_its_last_batch(tmp_path: Path, dataset: Dataset) -> None:
    log: list[Any] = []
    stopping = using(lambda threat: Package(threat, log, stop_at=(1, 0)))
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "torn", dataset, attacks="package", components=stopping)
    assert log == [(N, 0, 0), (N, 0, 1)]
    package: dict[str, Any] = {"attacks": "package", "components": using(lambda threat: Package(threat, log))}
    frame = run(tmp_path / "torn", dataset, **package)
    assert log[2:] == [(N, 1, 0), (N, 1, 1)]
    assert frame["package"].tolist() == run(tmp_path / "whole", dataset, **package)["package"].tolist()
    assert_same_results(tmp_path / "torn", tmp_path / "whole")
    assert list(tmp_path.rglob(".parts")) == []


def test_a_whole_batch_attack_on_other_samples_is_another_unit(tmp_path: Path, dataset: Dataset) -> None:
    log: list[Any] = []
    package: dict[str, Any] = {"attacks": "package", "components": using(lambda threat: Package(threat, log))}
    run(tmp_path, dataset, **package, limit=20)
    frame = run(tmp_path, dataset, **package, limit=40)
    assert [count for count, _, _ in log] == [20] * 4 + [40] * 4
    assert frame["n"].tolist() == [40]
    assert [unit.label for unit in find_results([tmp_path])].count("package") == 2
    run(tmp_path, dataset, **package, limit=20, batch_size=7)  # finds other things: another unit too
    assert len(log) == 12


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_out_of_memory_starts_again_under_a_smaller_shape(
    tmp_path: Path, dataset: Dataset, error: type[Exception]
) -> None:
    sizes: list[int] = []

    def crowded(*positional: Any, static_batch_size: int, **settings: Any) -> Iterator[AttackResult]:
        sizes.append(static_batch_size)
        if static_batch_size > 4:
            raise error("full")
        return search(*positional, static_batch_size=static_batch_size, **settings)

    frame = run(tmp_path, dataset, attacks="fgsm", limit=20, components=replace(SMALL, search=crowded))
    assert sizes == [16, 8, 4]
    assert frame["n"].tolist() == [20]
    assert [unit.label for unit in find_results([tmp_path])].count("fgsm") == 1


def test_out_of_memory_shrinks_the_batches_of_packages_too(tmp_path: Path, dataset: Dataset) -> None:
    sizes: list[int] = []

    class Greedy(Package):
        def run(self, model: nn.Module, samples: Batch, options: RunOptions) -> Iterator[Any]:
            sizes.append(options.batch_size)
            if options.batch_size > 10:
                raise torch.OutOfMemoryError("full")
            yield from super().run(model, samples, options)

    greedy = using(lambda threat: Greedy(threat, []))
    run(tmp_path, dataset, attacks="package", limit=20, batch_size=40, components=greedy)
    assert sizes == [40, 20, 10]


class Dimmed:
    """Corruptions that need no corruption code."""

    label = "toy-c (regenerated)"

    def __init__(self, dataset: Dataset, cells: Sequence[tuple[str, int]] = (("fog", 1), ("fog", 2))) -> None:
        self.dataset, self.cells = dataset, cells

    def images(self, name: str, severity: int, sample: Tensor) -> Tensor:
        return self.dataset.test.images[sample] // 2**severity

    def definition(self, name: str, severity: int) -> dict[str, Any]:
        return {"corruption": name, "severity": severity}


def test_corruption_cells_are_units_and_a_column(tmp_path: Path, dataset: Dataset) -> None:
    dimmed = replace(SMALL, corruption_cells=lambda mode, data, root, seed, types: Dimmed(data))
    row = run(tmp_path, dataset, attacks="fgsm", corruptions="auto", components=dimmed).iloc[0]
    x, y = dataset.test.images, dataset.test.labels
    right = [(Net().eval()((x // 2**s) / 255).argmax(1) == y).double().mean().item() for s in (1, 2)]
    assert pd.isna(row["corruptions"])  # two of 75 cells
    assert row["corruption_source"] == "toy-c (regenerated)"
    (unit,) = [unit for unit in find_results([tmp_path]) if unit.label == "corruption/fog/2"]
    assert 1 - unit.frame["success"].mean() == pytest.approx(right[1])
    assert sum(unit.corrupted for unit in find_results([tmp_path])) == 2


def test_asking_for_one_type_leaves_the_mean_of_all_that_are_stored(tmp_path: Path, dataset: Dataset) -> None:
    def source(mode: str, data: Dataset, root: Path | None, seed: int, types: str) -> Dimmed:
        names = BENCHMARK if types == "benchmark" else types.split(",")
        return Dimmed(data, [(name, severity) for name in names for severity in range(1, 6)])

    dimmed = replace(SMALL, corruption_cells=source)
    settings: dict[str, Any] = {"attacks": "none", "corruptions": "auto", "components": dimmed}
    whole = run(tmp_path, dataset, **settings).iloc[0]
    part = run(tmp_path, dataset, **settings, corruption_types="fog").iloc[0]
    assert part["corruptions"] == whole["corruptions"] > 0
    fewer = run(tmp_path, dataset, **settings, corruption_types="fog", limit=N - 1).iloc[0]
    assert fewer["corruptions_n"] == N - 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"attacks": "pdg-20"}, "there is no attack called 'pdg-20'"),
        ({"eps": ["8"]}, "exceeds the range of images"),
        ({"eps": []}, "there is no eps"),
        ({"limit": 0}, "leaves no image"),
        ({"device": "abacus"}, "the device 'abacus' cannot be used"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, dataset: Dataset, arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdvdpnpError, match=sentence):
        run(tmp_path, dataset, **arguments)


def test_a_model_for_other_images_or_classes_is_one_sentence(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(AdvdpnpError, match=r"net fails on images of shape \(1, 6, 6\) from toy"):
        run(tmp_path, dataset, loaded(nn.Sequential(nn.Flatten(), nn.Linear(7, 4))))
    with pytest.raises(AdvdpnpError, match="the labels go up to 3, but net has 3 classes; evaluate it on"):
        run(tmp_path, dataset, loaded(nn.Sequential(nn.Flatten(), nn.Linear(36, 3))))
    with pytest.raises(AdvdpnpError, match="there is no model"):
        evaluate_models([], dataset, out=tmp_path)


def test_in_memory_evaluation_agrees_for_all_kinds_of_arrays_and_with_files(tmp_path: Path, dataset: Dataset) -> None:
    images, labels = dataset.test.images, dataset.test.labels
    x, y = images.float() / 255, labels
    settings: dict[str, Any] = {"eps": "0.02", "attacks": "fgsm,pgd-5"}
    results = [
        evaluate(Net(), x, y, **settings),
        evaluate(Net(), images, y, **settings),
        evaluate(Net(), x.numpy(), y.numpy(), **settings),
        evaluate(Net(), x.double(), y.tolist(), name="net", **settings),
    ]
    expected = run(tmp_path, dataset)[["clean", "fgsm", "pgd-5", "worst_case", "n", "flags"]]
    for result in results:
        pd.testing.assert_frame_equal(result.row[expected.columns], expected)
    assert results[0].row["model"].tolist() == ["model"]
    found = results[0].verdicts
    assert found.groupby("attack").size().to_dict() == {"clean": N, "fgsm": N, "pgd-5": N}
    robust = ~found[found["attack"] == "pgd-5"]["success"]
    assert round(100 * robust.mean(), 2) == expected["pgd-5"].iloc[0]


def test_in_memory_evaluation_takes_precision_and_engine(dataset: Dataset) -> None:
    x, y = dataset.test.images, dataset.test.labels
    low = evaluate(Net(), x, y, eps=0.02, attacks="fgsm", precision="bf16")
    assert set(low.verdicts["attack"]) == {"clean", "fgsm (bf16 search)"}
    assert "fgsm (bf16 search)" in low.row
    reference = evaluate(Net(), x, y, eps=0.02, attacks="fgsm", engine="reference")
    assert set(reference.verdicts["attack"]) == {"clean", "torchattacks:FGSM"}
    for options in ({"precision": "64"}, {"precision": 32}, {"engine": "fast"}):
        with pytest.raises(AdvdpnpError, match=next(iter(options))):
            evaluate(Net(), x, y, attacks="fgsm", **options)  # type: ignore[arg-type]


def test_in_memory_evaluation_returns_what_files_hold_and_writes_none(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = EvaluationConfig.of(
        attacks="fgsm,pgd-5", eps=["0.02"], device="cpu", save_adversarials=True, corruptions="auto"
    )
    components = replace(SMALL, corruption_cells=lambda mode, data, root, seed, types: Dimmed(data))
    on_disk, in_memory = ResultsFolder(tmp_path), MemoryResults()
    expected_run = run_models([loaded(Net())], dataset, config, on_disk, command="", components=components)
    monkeypatch.setattr(tempfile, "_get_candidate_names", lambda: pytest.fail("a temporary file was made"))
    monkeypatch.chdir(tmp_path)
    files = sorted(tmp_path.rglob("*"))
    found_run = run_models([loaded(Net())], dataset, config, in_memory, command="", components=components)
    evaluate(Net(), dataset.test.images, dataset.test.labels, eps=0.02, attacks="fgsm", save_adversarials=True)
    assert sorted(tmp_path.rglob("*")) == files
    timed = ["seconds", "date"]
    (expected_row,) = requested_rows([loaded(Net())], expected_run, on_disk)
    (found_row,) = requested_rows([loaded(Net())], found_run, in_memory)
    assert found_row.measured == expected_row.measured
    assert found_row.measured_samples == expected_row.measured_samples == N
    pd.testing.assert_frame_equal(
        tabulate_rows([found_row]).drop(columns=timed), tabulate_rows([expected_row]).drop(columns=timed)
    )
    expected, found = on_disk.evaluations(), in_memory.evaluations()
    assert [unit.label for unit in found] == ["clean", "corruption/fog/1", "corruption/fog/2", "fgsm", "pgd-5"]
    clean = dataset.test.some_images
    for a, b in zip(found, expected, strict=True):
        pd.testing.assert_frame_equal(a.keyed_frame(), b.keyed_frame())
        assert (a.record.images, a.record.image_shape, a.record.saved) == (
            b.record.images, b.record.image_shape, b.record.saved,
        )  # fmt: skip
        assert a.info.keys() == b.info.keys()
        images = [[(part.sample, part.x_adv, part.intact) for part in unit.adversarials(clean, N)] for unit in (a, b)]
        one, other = ([np.concatenate(each) for each in zip(*parts, strict=True)] for parts in images)
        for left, right in zip(one, other, strict=True):  # images come in the order in which they were found
            np.testing.assert_array_equal(left[np.argsort(one[0])], right[np.argsort(other[0])])
        for name, values in b.examples().items():
            np.testing.assert_array_equal(a.examples()[name], values)
    assert found[-1].record.images > 8


def test_in_memory_evaluation_with_corruptions_of_float_images() -> None:
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 3))
    row = evaluate(model, x, [0, 1, 2, 0], attacks="none", corruptions="auto").row.iloc[0]
    assert 0 <= row["corruptions"] <= 100
    chosen = evaluate(model, x, [0, 1, 2, 0], attacks="none", corruptions="auto", corruption_types=["saturate", "fog"])
    assert set(chosen.verdicts["attack"]) == {
        "clean",
        *(f"corruption/{n}/{s}" for n in ("fog", "saturate") for s in range(1, 6)),
    }
    assert chosen.row.iloc[0]["corruption:fog"] == row["corruption:fog"]
    assert pd.isna(chosen.row.iloc[0]["corruptions"])
    with pytest.raises(AdvdpnpError, match="fgo"):
        evaluate(model, x, [0, 1, 2, 0], attacks="none", corruptions="auto", corruption_types="fgo")
    with pytest.raises(AdvdpnpError, match="give benchmark, all, or names"):
        evaluate(model, x, [0, 1, 2, 0], attacks="none", corruptions="auto", corruption_types=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "y", "sentence"),
    [
        (torch.rand(4, 1, 6, 6) * 2, [0, 1, 2, 3], r"must lie in \[0, 1\]"),
        (torch.rand(4, 36), [0, 1, 2, 3], "images must be"),
        (torch.rand(4, 1, 6, 6), [0, 1, 2], "labels must be 4 integers"),
        (torch.zeros(4, 1, 6, 6, dtype=torch.uint8), [0, 1, 2], "4 images but 3 labels"),
        (torch.rand(4, 1, 6, 6), [0.0, 1, 2, 3], "labels must be integers"),
        (torch.rand(4, 1, 6, 6), [0, 1, 2, -1], "negative"),
        (torch.rand(0, 1, 6, 6), torch.zeros(0, dtype=torch.int64), "there are no images to evaluate"),
        ("images", [0], "images must be a tensor or an array"),
    ],
)
def test_unusable_arrays_are_one_sentence(x: Any, y: Any, sentence: str) -> None:
    with pytest.raises(AdvdpnpError, match=sentence):
        evaluate(Net(), x, y, attacks="fgsm")


def test_recorded_commands_hold_no_absolute_paths() -> None:
    given = ("--out=/home/me/x", "/a/b.safetensors", "npz:/a/b.npz", "8/255", "--limit")
    assert [*map(without_folder, given)] == ["--out=x", "b.safetensors", "npz:b.npz", "8/255", "--limit"]
    assert [*map(without_folder, ("/a/nets.py:net", "--model=/a/nets.py:net", "a/nets.py:net"))] == [
        "nets.py:net", "--model=nets.py:net", "a/nets.py:net",
    ]  # fmt: skip


def test_the_device_is_chosen_or_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device(None).type in ("cpu", "cuda")


def test_a_dataset_without_test_images_is_one_sentence(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(AdvdpnpError, match="has no test images"):
        run(tmp_path, replace(dataset, test=dataset.train))


def test_what_a_checkpoint_tells_of_its_training_groups_its_seeds(dataset: Dataset, tmp_path: Path) -> None:
    def trained(seed: int, **recipe: Any) -> LoadedModel:
        header = {"dataset": "toy", "recipe": {"epochs": 3, "description": f"{seed}", **recipe, "seed": seed}}
        return replace(loaded(Net(seed), f"net-{seed}"), header=header)

    models = [trained(0), trained(1), trained(2, epochs=4), replace(trained(3), header={}), trained(4)]
    models[4].header["dataset"] = "other"
    frame = evaluate_models(models, dataset, out=tmp_path, attacks="none", limit=5).set_index("model")
    hashes = frame["recipe_hash"]
    assert hashes["net-0"] == hashes["net-1"] != ""
    assert len({hashes["net-0"], hashes["net-2"], hashes["net-4"], ""}) == 4
    assert hashes["net-3"] == ""
    assert frame["training_seed"].sort_index().astype("float64").tolist() == pytest.approx(
        [0, 1, 2, np.nan, 4], nan_ok=True
    )
    seeds = pd.read_csv(tmp_path / "seeds.csv")
    assert seeds["models"].tolist() == ["net-0; net-1"]


def test_inference_mode_around_an_evaluation_changes_nothing() -> None:
    net, x = Net(), torch.rand(20, 1, 6, 6, generator=torch.Generator().manual_seed(2))
    y = Net().eval()(x).argmax(1)
    expected = evaluate(net, x, y, eps=0.05, attacks="fgsm,pgd-4").row
    with torch.inference_mode():
        found = evaluate(net, x + 0, y + 0, eps=0.05, attacks=["fgsm", "pgd-4"]).row
        with pytest.raises(AdvdpnpError, match="inference_mode"):
            evaluate(Net(), x, y, eps=0.05, attacks="fgsm")
    assert expected["fgsm"].item() < expected["clean"].item()
    columns = ["clean", "fgsm", "pgd-4", "flags"]
    pd.testing.assert_frame_equal(found[columns], expected[columns])


@pytest.mark.parametrize(
    "options",
    [
        {"attacks": None},
        {"attacks": 5},
        {"attacks": ["fgsm", 3]},
        {"norm": 2},
        {"seed": "a"},
        {"seed": True},
        {"batch_size": 2.5},
        {"eps": [0.1, None]},
        {"eps": True},
        {"y": None},
        {"targets": "worst"},
        {"targets": "labels"},
        {"sanity": "no"},
        {"y": ["a"] * 4},
        {"x": np.array([["a"]])},
    ],
)
def test_arguments_of_other_kinds_are_one_sentence(options: dict[str, Any]) -> None:
    arguments = {"x": torch.rand(4, 1, 6, 6), "y": torch.zeros(4, dtype=torch.long), "eps": 0.05, "attacks": "fgsm"}
    with pytest.raises(AdvdpnpError):
        evaluate(Net(), **{**arguments, **options})
