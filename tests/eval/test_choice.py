"""What ``evaluate`` takes besides names and arrays: attack objects, loaders, several radii, targets."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advdpnp
from advdpnp.attacks import ThreatModel
from advdpnp.attacks.algorithms.cw_l2 import CWL2
from advdpnp.attacks.algorithms.eot import ExpectationOverTransformation
from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.attacks.criteria import Targeted
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.names import with_threat
from advdpnp.attacks.protocol import aim
from advdpnp.attacks.search_state import AttackResult
from advdpnp.base.errors import AdvdpnpError
from advdpnp.commands.support.models import choose_threat
from advdpnp.datasets import Dataset, Split
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.audit.images import Auditor
from advdpnp.eval.choice import ChosenAttacks, default_threat
from advdpnp.eval.config import EvaluationConfig
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.evaluate import run_models
from advdpnp.eval.run.progress import Progress
from advdpnp.eval.run.results import ResultsFolder
from advdpnp.eval.run.tasks import Nearest
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.models import Normalise
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel

N = 20
SMALL = ThreatModel.parse("linf", "0.03")
LARGE = ThreatModel.parse("linf", "0.1")


class Net(nn.Module):
    """Four classes of 6x6 images; computes in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(36, 4, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        return (torch.tanh(x.flatten(1).double() - 0.5) @ self.weight.double()).float()


@pytest.fixture
def x() -> Tensor:
    return torch.rand(N, 1, 6, 6, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def y(x: Tensor) -> Tensor:
    with torch.no_grad():
        labels = Net()(x).argmax(1)
    labels[:2] = (labels[:2] + 1) % 4
    return labels


def test_objects_and_names_mix_and_objects_bring_their_radius(x: Tensor, y: Tensor) -> None:
    mine = PGD(SMALL, 3, objective="margin", name="mine")
    result = advdpnp.evaluate(Net(), x, y, attacks=["fgsm", mine], sanity=False)
    row = result.row.iloc[0]
    assert row["eps_text"] == "0.03"
    assert {"fgsm", "mine"} <= set(result.row.columns)
    alone = advdpnp.attack(Net(), x, y, mine)
    right = 100 * float((~alone.success).float().mean())
    assert row["mine"] == pytest.approx(right)
    wider = advdpnp.evaluate(Net(), x, y, attacks=mine, eps="0.1", sanity=False).row.iloc[0]
    assert (wider["eps_text"], wider["mine"] < row["mine"]) == ("0.1", True)


def test_what_cannot_be_chosen_is_one_sentence(x: Tensor, y: Tensor) -> None:
    mine = PGD(SMALL, 3, name="mine")
    for attacks, sentence in (
        ([mine, PGD(LARGE, 3, name="other")], r"differ in their eps \(0.03, 0.1\)"),
        ([mine, mine], "two attacks are called 'mine'"),
        ([replace(mine, name="a,b")], "without commas"),
        ([object()], "attacks are a text"),
    ):
        with pytest.raises(AdvdpnpError, match=sentence):
            advdpnp.evaluate(Net(), x, y, attacks=attacks)


def test_every_kind_of_attack_takes_another_threat_model() -> None:
    pgd = PGD(SMALL, 3)
    averaged = ExpectationOverTransformation(replace(pgd, name="b"), 2)
    both = with_threat(AttackEnsemble("both", (pgd, averaged)), LARGE)
    assert {stage.threat for stage in both.stages} == {LARGE} == {both.threat}

    @dataclass(frozen=True)
    class Fixed:
        """An attack for one radius."""

        steps: int = 3

    for name in ("norms", "minimum_norm", "definition", "start", "ask", "tell"):
        setattr(Fixed, name, getattr(pgd, name))
    Fixed.name, Fixed.threat = "fixed", SMALL  # type: ignore[attr-defined]
    assert with_threat(Fixed(), SMALL) == Fixed()
    with pytest.raises(AdvdpnpError, match=r"'fixed' is made for linf 0.03; make it for linf 0.1 too"):
        with_threat(Fixed(), LARGE)
    assert [name for name, _ in ChosenAttacks.of("fgsm, pgd-3").resolve("fgsm, pgd-3", SMALL, 4)] == ["fgsm", "pgd-3"]


def test_a_loader_gives_what_its_images_give_and_several_radii_a_row_each(x: Tensor, y: Tensor) -> None:
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    rows = advdpnp.evaluate(Net(), loader, attacks="fgsm", eps=["0.03", 0.1], sanity=False).row
    assert rows["eps_text"].tolist() == ["0.03", "0.1"]
    for eps, found in zip(("0.03", 0.1), rows["fgsm"], strict=True):
        assert advdpnp.evaluate(Net(), x, y, attacks="fgsm", eps=eps, sanity=False).row["fgsm"].item() == found
    for wrong, sentence in (
        ([], "no images"),
        ([x], "must be pairs"),
        ([(x, y), (x[:, :, :5], y)], "differ in the shape"),
        (x, "labels are missing"),
        (3, "labels are missing"),
    ):
        with pytest.raises(AdvdpnpError, match=sentence):
            advdpnp.evaluate(Net(), wrong)


def test_a_minimum_norm_attack_searches_once_for_several_radii(x: Tensor, y: Tensor, tmp_path: Path) -> None:
    net, calls = Net(), []
    split = Split((x * 255).round().to(torch.uint8), y)
    none = Split(split.images[:0], y[:0])
    dataset = Dataset("toy", tuple("abcd"), none, none, split, "none")
    model = LoadedModel(net, "net", weights_hash(net), "Net", "", 144, {})

    def resolve(text: str, threat: ThreatModel, classes: int, engine: str) -> list[tuple[str, CWL2]]:
        return [("short", CWL2(threat, searches=3, iterations=40))]

    def counted(*arguments: Any, **options: Any) -> Iterator[AttackResult]:
        calls.append(len(arguments[2]))
        return search(*arguments, **options)

    def run(out: Path, eps: list[str], limit: int = N) -> list[StoredEvaluation]:
        calls.clear()
        config = EvaluationConfig.of(
            attacks="cw-l2", norm="l2", eps=eps, limit=limit, device="cpu", sanity=False, save_adversarials=True
        )
        components = Components(search=counted, resolve_attacks=resolve, static_batch_size=16)
        results = ResultsFolder(out)
        run_models([model], dataset, config, results, command="", components=components)
        return [unit for unit in results.evaluations() if unit.threat]

    radii = ["0.1", "0.4", "0.2"]
    together = run(tmp_path / "together", radii)
    assert calls == [N]
    apart = [unit for eps in radii for unit in run(tmp_path / eps, [eps])]
    broken = []
    for one in together:
        (other,) = [unit for unit in apart if unit.threat == one.threat]
        assert one.hash == other.hash
        pd.testing.assert_frame_equal(one.frame, other.frame)
        assert one.record.images == other.record.images
        broken.append(int(one.frame["success"].sum()))
    assert len(set(broken)) == 3
    run(tmp_path / "part", ["0.4"], limit=5)
    continued = run(tmp_path / "part", radii)
    assert calls == [N]
    for one, other in zip(continued, together, strict=True):
        pd.testing.assert_frame_equal(one.frame, other.frame)


def test_a_minimum_norm_attack_of_a_package_searches_once_too(
    x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchattacks, runs = pytest.importorskip("torchattacks"), []
    forward = torchattacks.DeepFool.forward
    monkeypatch.setattr(torchattacks.DeepFool, "forward", lambda *given: runs.append(1) or forward(*given))
    asked = {"attacks": "torchattacks:DeepFool", "norm": "l2", "sanity": False}
    radii = ["0.1", "0.4", "0.2"]
    rows = advdpnp.evaluate(Net(), x, y, eps=radii, **asked).row
    assert len(runs) == 1
    columns = ["eps_text", "torchattacks:DeepFool", "forwards", "definitions"]
    alone = [advdpnp.evaluate(Net(), x, y, eps=eps, **asked).row for eps in radii]
    pd.testing.assert_frame_equal(
        rows[columns].sort_values("eps_text", ignore_index=True),
        pd.concat(alone)[columns].sort_values("eps_text", ignore_index=True),
    )
    assert rows["torchattacks:DeepFool"].nunique() == 3


def test_of_a_shared_search_the_plan_the_notes_and_the_memory_are_right(
    x: Tensor, y: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first radius is stored already, so that the second one searches, for itself and the third."""
    plans, kept, alive, searches = [], [], [], []

    def differing(*arguments: Any, on_copy_differs: Any, **options: Any) -> Iterator[AttackResult]:
        searches.append((arguments[1].name, any(found() for found in alive)))
        on_copy_differs()
        return search(*arguments, **options)

    def keep(found: Nearest, part: AttackResult) -> None:
        kept_before(found, part)
        kept.append((len(part.x_adv), sum(len(broken) for _, broken in found.parts), int(part.success.sum())))
        alive.append(weakref.ref(found))

    kept_before = Nearest.keep
    monkeypatch.setattr(Nearest, "keep", keep)
    monkeypatch.setattr(Progress, "plan", lambda self, plan: plans.append(plan))
    monkeypatch.setattr(Progress, "doing", lambda *_: None)
    split = Split((x * 255).round().to(torch.uint8), y)
    dataset = Dataset("toy", tuple("abcd"), Split(split.images[:0], y[:0]), Split(split.images[:0], y[:0]), split, "-")
    net = Net()
    model = LoadedModel(net, "net", weights_hash(net), "Net", "", 144, {})

    def resolve(text: str, threat: ThreatModel, classes: int, engine: str) -> list[tuple[str, Any]]:
        return [("cw-l2", CWL2(threat, searches=2, iterations=5)), ("pgd-99", PGD(threat, 99, name="pgd-99"))]

    def run(eps: list[str]) -> list[StoredEvaluation]:
        config = EvaluationConfig.of(attacks="any", norm="l2", eps=eps, device="cpu", sanity=False)
        components = Components(search=differing, resolve_attacks=resolve, static_batch_size=16)
        results = ResultsFolder(tmp_path)
        run_models([model], dataset, config, results, command="", components=components)
        return [unit for unit in results.evaluations() if unit.threat]

    run(["0.1"])
    units = run(["0.1", "0.4", "0.2"])
    costs = [work.cost for work in plans[-1].work if work.unit.startswith("cw-l2")]
    assert costs[0] == costs[2] == 0 < costs[1]
    assert all(unit.info["runs"][-1]["copy_differs"] for unit in units if unit.label == "cw-l2")
    assert sum(new for *_, new in kept) == kept[-1][1] < sum(whole for whole, *_ in kept)
    assert searches[-1] == ("pgd-99", False)
    assert ("pgd-99", True) in searches


def test_without_measurements_the_row_says_so_and_is_the_same_else(x: Tensor, y: Tensor) -> None:
    calls = []

    class Counted(Net):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().forward(x)

    net = Counted()
    rows, rows_computed = [], []
    for sanity in (True, False):
        calls.clear()
        rows.append(advdpnp.evaluate(net, x, y, attacks="pgd-3", eps=0.05, sanity=sanity).row.iloc[0])
        rows_computed.append(sum(calls))
    assert "unmeasured" not in rows[0]["flags"]
    assert rows[1]["flags"].split("; ") == ["unmeasured"]
    assert (rows[0]["sanity_n"], rows[1]["sanity_n"]) == (N, 0)
    for column in ("clean", "pgd-3", "worst_case", "forwards", "definitions"):
        assert rows[0][column] == rows[1][column]
    assert rows_computed[1] < 0.7 * rows_computed[0]


def test_images_of_targeted_attacks_are_kept_and_verified_as_such(x: Tensor, y: Tensor, tmp_path: Path) -> None:
    net = Net()
    split = Split((x * 255).round().to(torch.uint8), y)
    none = Split(split.images[:0], y[:0])
    dataset = Dataset("toy", tuple("abcd"), none, none, split, "none")
    model = LoadedModel(net, "net", weights_hash(net), "Net", "", 144, {})
    config = EvaluationConfig.of(
        attacks="pgd-3", eps=["0.1"], device="cpu", targets="next", sanity=False, save_adversarials=True
    )
    results = ResultsFolder(tmp_path)
    run_models([model], dataset, config, results, command="")
    (unit,) = [unit for unit in results.evaluations() if unit.threat]
    (images,) = unit.adversarials(split.some_images, N)
    assert len(images.sample) > 2
    with torch.no_grad():
        assert torch.equal(net(images.x_adv).argmax(1), (y[images.sample.tolist()] + 1) % 4)
    found = Auditor(net, dataset, torch.device("cpu")).audit(unit)
    assert (found.holds, found.holding) == (True, len(images.sample))
    frame = unit.verdicts.frame.copy()
    frame.loc[frame["sample"] == images.sample[0], "adversarial_prediction"] += 2
    frame["adversarial_prediction"] %= 4
    forged = replace(unit, verdicts=replace(unit.verdicts, table=lambda: pa.Table.from_pandas(frame), kept={}))
    (fault,) = Auditor(net, dataset, torch.device("cpu")).audit(forged).faults
    assert fault.sample == images.sample[0]
    assert ", the target" in str(fault)

    tied = torch.full((4,), -1.0)
    label = int(y[images.sample[0]])
    tied[(label + 2) % 4], tied[(label + 1) % 4] = 1, 1 - 1e-6  # the target lacks a hair, the label much

    class Tied(Net):
        def forward(self, x: Tensor) -> Tensor:
            same = (x - images.x_adv[:1]).abs().flatten(1).amax(1) < 1e-6
            return torch.where(same[:, None], tied, super().forward(x))

    found = Auditor(Tied(), dataset, torch.device("cpu")).audit(unit)
    assert not found.faults
    assert [(each.sample, "borderline" in each.why) for each in found.unsettled] == [(int(images.sample[0]), True)]


def test_targets_have_columns_of_their_own_and_measurements_come_later(x: Tensor, y: Tensor, tmp_path: Path) -> None:
    net = Net()
    split = Split((x * 255).round().to(torch.uint8), y)
    dataset = Dataset(
        "toy", tuple("abcd"), Split(split.images[:0], y[:0]), Split(split.images[:0], y[:0]), split, "none"
    )
    model = LoadedModel(net, "net", weights_hash(net), "Net", "", 144, {})
    asked = {"out": tmp_path, "attacks": "fgsm,pgd-3", "eps": ["0.1"], "device": "cpu"}
    first = evaluate_models([model], dataset, **asked, targets="next", sanity=False).iloc[0]
    label = "pgd-3 (targeted: next)"
    found = advdpnp.attack(net, split.images, y, "pgd-3", eps="0.1", targets="next")
    with torch.no_grad():
        clean = net(split.images.float() / 255).argmax(1) == y
    assert first[label] == pytest.approx(100 * float((clean & ~found.success).float().mean()))
    assert "pgd-3" not in first.index
    assert "unmeasured" in first["flags"]
    again = evaluate_models([model], dataset, **asked).iloc[0]
    assert again["pgd-3"] <= first[label] == again[label]
    assert "unmeasured" not in again["flags"]
    assert "order" not in again["flags"]
    with pytest.raises(AdvdpnpError, match="the attack 'autoattack' cannot aim at targets; fgsm, pgd-N"):
        evaluate_models([model], dataset, **{**asked, "attacks": "all"}, targets="next")
    with pytest.raises(AdvdpnpError, match="no targets called 'worst'"):
        advdpnp.evaluate(net, x, y, attacks="fgsm", targets="worst")
    aimed = aim(PGD(LARGE, 3, name="pgd-3"), Targeted("next"))
    assert advdpnp.evaluate(net, split.images, y, attacks=aimed, sanity=False).row[label].item() == first[label]


def test_all_means_the_attacks_of_the_norm(x: Tensor, y: Tensor) -> None:
    row = advdpnp.evaluate(Net(), x[:4], y[:4], norm="l1", eps=1, sanity=False).row
    assert {"apgd-ce", "apgd-t"} <= set(row.columns)
    assert "fgsm" not in row.columns
    with pytest.raises(AdvdpnpError, match="'all' names no attack under l0"):
        advdpnp.evaluate(Net(), x, y, norm="l0", eps=2)


def test_an_object_stays_itself_beside_a_reference_engine() -> None:
    mine = PGD(SMALL, 3, name="pgd-20")
    chosen = ChosenAttacks.of(["fgsm", mine])
    assert dict(chosen.resolve(chosen.text, SMALL, 4, "reference"))["pgd-20"] == mine
    assert "torchattacks:FGSM" in dict(chosen.resolve(chosen.text, SMALL, 4, "reference"))


def test_few_labels_do_not_make_few_classes(x: Tensor) -> None:
    zero = torch.zeros(N, dtype=torch.int64)
    found = advdpnp.evaluate(Net(), x, zero, attacks="apgd-t", eps=0.03, sanity=False)
    assert set(found.verdicts["label"]) == {0}
    assert "apgd-t" in found.row.columns


def checkpoint(norm: str = "l2", eps: str = "0.25") -> LoadedModel:
    """What ``load_model`` returns for a checkpoint that was trained under this threat model."""
    header = {"recipe": {"attack": {"norm": norm, "eps": eps}}}
    return LoadedModel(Net(), "trained", weights_hash(Net()), "net", "pgd-at", 144, header)


def test_a_checkpoint_is_attacked_as_it_was_trained_unless_the_caller_says_otherwise(x: Tensor, y: Tensor) -> None:
    def asked(**options: Any) -> str:
        row = advdpnp.evaluate(checkpoint(), x, y, attacks="fgsm", sanity=False, **options).row.iloc[0]
        return f"{row['norm']} {row['eps_text']}"

    assert asked() == "l2 0.25"
    assert asked(eps=1) == "l2 1"
    assert asked(norm="linf") == "linf 8/255"  # a radius of L2 says nothing about Linf
    assert advdpnp.attack(checkpoint(), x, y, "fgsm").threat.label == "l2 0.25"
    moved = advdpnp.perturb(checkpoint(), x, y, "fgsm") - x
    assert moved.flatten(1).norm(dim=1).max() == pytest.approx(0.25)
    assert advdpnp.attack(Net(), x, y, "fgsm").threat.label == "linf 8/255"
    assert advdpnp.attack(checkpoint(), x, y, PGD(SMALL, 3, name="mine")).threat == SMALL


def test_the_command_and_python_choose_by_one_rule() -> None:
    one, other = checkpoint(), checkpoint("l2", "0.5")
    for models, expected in (
        ([], ("linf", "8/255")), ([one, Net()], ("l2", "0.25")), ([one, other], ("l2", "0.5")),
        ([one, checkpoint("linf", "0.1")], ("linf", "8/255")),
    ):  # fmt: skip
        assert default_threat(models) == expected
        assert choose_threat([each for each in models if isinstance(each, LoadedModel)], None, []) == (
            expected[0], [expected[1]],
        )  # fmt: skip


def test_nothing_is_normalised_twice(x: Tensor, y: Tensor) -> None:
    with pytest.raises(AdvdpnpError, match=r"load_model has settled how 'trained' normalises its images; leave out"):
        advdpnp.evaluate(checkpoint(), x, y, attacks="none", mean=0.5, std=0.25)
    own = nn.Sequential(Normalise((0.5,), (0.25,)), Net())
    with pytest.raises(AdvdpnpError, match=r"the model normalises its images itself; leave out mean and std$"):
        advdpnp.evaluate(own, x, y, attacks="none", mean=0.5, std=0.25)
    with pytest.raises(AdvdpnpError, match=r"'trained' takes images in \[0, 1\]; leave out the input range"):
        advdpnp.evaluate(checkpoint(), x, y, attacks="none", input_range=(0, 255))
    colour = torch.rand(4, 3, 6, 6)
    net = nn.Sequential(nn.AvgPool3d((3, 1, 1)), Net())
    assert advdpnp.evaluate(net, colour, y[:4], attacks="none", sanity=False, mean=0.5, std=0.25).row["n"].item() == 4
