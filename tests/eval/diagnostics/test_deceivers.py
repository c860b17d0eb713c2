"""What is measured beside the verdicts: the right flag for each deceiver, none for honest nets, and stored as data."""

import copy
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import advdpnp
from advdpnp.attacks.engine.executor import evaluation_mode
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset, Split
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.api import evaluate, evaluate_models
from advdpnp.eval.diagnostics import DiagnosticRecord, ModelProbe, measure_gradients, measure_outputs, training_modules
from advdpnp.eval.diagnostics import gradients as search_module
from advdpnp.eval.diagnostics.texts import FLAGS
from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.eval.store.diagnostics_record import diagnostics_of
from advdpnp.eval.store.index import INDEX, read_index, write_diagnostics
from advdpnp.eval.store.reader import has_diagnostics, read_diagnostics
from advdpnp.models.loading import LoadedModel

REPOSITORY = Path(advdpnp.__file__).resolve().parent.parent
LINF = ThreatModel.parse("linf", 0.05)


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small honest net, trained with noise on bright squares in one of four corners; 120 test images and labels.

    It is trained in float64, so that its weights are the same float32 numbers whatever processor trains it.
    """
    generator = torch.Generator().manual_seed(0)

    def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.randint(4, (count,), generator=generator)
        x = 0.3 + 0.15 * torch.rand(count, 3, 16, 16, generator=generator)
        for i, k in enumerate(y.tolist()):
            x[i, :, 8 * (k // 2) : 8 * (k // 2) + 8, 8 * (k % 2) : 8 * (k % 2) + 8] += 0.12
        return (x * 255).round() / 255, y

    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(32, 4)
        ).double()
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        x, y = pictures(64)
        noisy = x + 0.1 * torch.randn(x.shape, generator=generator)
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(noisy.double()), y).backward()
        optimiser.step()
    return net.float().eval(), *pictures(120)


@pytest.fixture
def zoo(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The models that deceive; scripts are no part of the installed package."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    found: dict[str, Any] = importlib.import_module("benchmarks.gradient_masking_models").ZOO
    return found


def flags_of(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float | str = 0.05, attacks: str = "fgsm,pgd-20,cw"
) -> list[str]:
    row = evaluate(model, x, y, eps=eps, attacks=attacks).row.iloc[0]
    return [code for code in row["flags"].split("; ") if code]


# At 0.05 cross-entropy, which pulls at all rivals at once, does leave 13 points more than margins do on this net.
@pytest.mark.parametrize("eps", ["1/255", 0.02, 0.04, 0.1, 0.3])
def test_an_honest_net_raises_nothing_at_any_radius(trained: Any, eps: float | str) -> None:
    assert flags_of(*trained, eps) == []


@pytest.mark.parametrize(
    "name",
    ["quantised input", "zero-gradient layer", "logits x 1000", "softmax output", "dropout on", "added noise",
     "BatchNorm in train mode", "optimises inside", "answers change", "remembers its images",
     "normalisation left out",
     "lives between levels"],
)  # fmt: skip
def test_each_deceiver_raises_its_flag(trained: Any, zoo: dict[str, Any], name: str) -> None:
    net, x, y = trained
    deceiver = zoo[name]
    model = deceiver.make(nn.Sequential(net, Scale(30.0)) if name == "zero-gradient layer" else net).eval()
    found = flags_of(model, x, y)
    assert deceiver.flag in found
    assert set(found) <= set(FLAGS)


class Plateau(nn.Module):
    """Near a level of 255 it sees the level alone, so that a clean image has no gradient; noise goes beyond."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        level = (x * 255).round() / 255
        answer: torch.Tensor = self.net(torch.where((x - level).abs() < 0.1 / 255, level.detach(), x))
        return answer


def test_a_net_that_stops_minimum_norm_searches_alone_is_flagged(trained: Any) -> None:
    net, x, y = trained
    x, y = x[:40], y[:40]
    options: dict[str, Any] = {"norm": "l2", "eps": 3.0, "attacks": "pgd-20,cw-l2"}
    honest, deceiver = (evaluate(each, x, y, **options).row.iloc[0] for each in (net, Plateau(net)))
    assert "minimum-norm" not in honest["flags"].split("; ")
    assert honest["cw-l2"] <= honest["pgd-20"] < 20
    assert "minimum-norm" in deceiver["flags"].split("; ")
    assert deceiver["cw-l2"] == deceiver["clean"] > deceiver["pgd-20"]


def test_a_radius_of_linf_under_l2_is_flagged(trained: Any) -> None:
    def flags(eps: float | str) -> list[str]:
        row = evaluate(*trained, norm="l2", eps=eps, attacks="pgd-20", sanity=False).row.iloc[0]
        return str(row["flags"]).split("; ")

    assert "small-eps" in flags("8/255")
    assert "small-eps" not in flags(3.0)


def test_all_deceivers_are_tried(zoo: dict[str, Any]) -> None:
    (mark,) = [mark for mark in test_each_deceiver_raises_its_flag.pytestmark if mark.name == "parametrize"]
    assert set(mark.args[1]) == set(zoo)


class Choosy(nn.Module):
    """Remembers dark images alone, as those of the data are and their negatives are not; its gradient is honest."""

    def __init__(self, memoriser: Any) -> None:
        super().__init__()
        self.memoriser = memoriser

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.memoriser.net(x)
        answers, dark = logits.detach().clone(), x.detach().flatten(1).mean(1) < 0.5
        if dark.any():
            answers[dark] = self.memoriser(x[dark].detach()).detach()
        return logits + (answers - logits).detach()


def test_what_an_attack_found_is_judged_by_a_copy_that_was_never_asked_too(trained: Any, zoo: dict[str, Any]) -> None:
    net, x, y = trained
    honest, choosy = net, Choosy(zoo["remembers its images"].make(copy.deepcopy(net))).eval()
    with torch.no_grad():
        assert (
            choosy(x).argmax(1) == choosy(fooling := advdpnp.attack(honest, x, y, "fgsm", eps=0.05).x_adv).argmax(1)
        ).all()
        assert (honest(x).argmax(1) != honest(fooling).argmax(1)).any()  # it deceives
    choosy.memoriser.images = torch.empty(0)
    results = [evaluate(each, x, y, eps=0.05, attacks="fgsm,pgd-20", sanity=False) for each in (honest, choosy)]
    for attack in ("fgsm", "pgd-20", "worst_case"):
        assert abs(results[1].row[attack].item() - results[0].row[attack].item()) < 6
    assert "stateful" in results[1].row["flags"].item().split("; ")
    assert "stateful" not in results[0].row["flags"].item()


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


class Rounded(nn.Module):
    """Computes in float64 and answers in float32: calls of other sizes round otherwise only below what is kept."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.net(x.double()).float()
        return answer


def subject(net: nn.Module, x: torch.Tensor, y: torch.Tensor, static_batch_size: int = 128) -> ModelProbe:
    return ModelProbe(net, x, y, static_batch_size, 0)


def test_the_same_numbers_in_smaller_calls_and_nothing_left_behind(trained: Any) -> None:
    net, x, y = trained
    net = Rounded(net)
    modes = [module.training for module in net.modules()]
    state = torch.random.get_rng_state()
    with evaluation_mode(net):
        whole, again, parts = (
            (measure_outputs(subject(net, x, y, rows)), measure_gradients(subject(net, x, y, rows), LINF))
            for rows in (128, 128, 7)
        )
    assert whole[0]["right"] == parts[0]["right"]
    assert whole[1]["right"] == parts[1]["right"]
    assert json.dumps(whole, allow_nan=False) == json.dumps(again, allow_nan=False)
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)


class Counted(nn.Module):
    """Two classes by the mean of the pixels; counts rows by whether a gradient may be asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = {False: 0, True: 0}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows[x.requires_grad] += len(x)
        mean = x.flatten(1).mean(1)
        return torch.stack([0.5 - mean, mean - 0.5], 1)


@pytest.mark.parametrize(
    ("gap", "searched", "again"),
    [
        (0.1, 21 * 24, 2 * 100),  # nothing breaks at eps; at 0.5 the first step does, from noise that does not
        (0.02, 3 * 24, 2 * 76),  # the second step breaks all, and what it breaks is not searched again
    ],
)
def test_what_the_measurements_cost(gap: float, searched: int, again: int) -> None:
    y = torch.arange(100) % 2
    x = (0.5 + gap * (2.0 * y - 1))[:, None, None, None].expand(100, 1, 80, 80).contiguous()
    net = Counted()
    with evaluation_mode(net):
        probe = subject(net, x, y)
        measure_outputs(probe)
        assert net.rows == {False: 4 * 128, True: 0}  # clean, normalised, denormalised, nudged; padded
        net.rows = {False: 0, True: 0}
        found = measure_gradients(probe, LINF)
    fgsm = 100
    assert net.rows[True] == searched + again + fgsm
    assert net.rows[False] == (3 if gap < 0.05 else 2) * 128  # noise, fgsm, and what is rounded
    assert {name: len(digits) for name, digits in found["right"].items()} == {
        "noise": 100, "fgsm": 100, "pgd-20": 24, "pgd-20 at 0.5": 100
    }  # fmt: skip


def test_a_loss_that_still_rises_is_seen(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x, y = trained
    with evaluation_mode(net):
        assert measure_gradients(subject(net, x, y), ThreatModel.parse("linf", 0.02))["rising"] < 0.25
        monkeypatch.setattr(search_module, "PGD", lambda threat, steps: _short_steps(threat, steps))
        assert measure_gradients(subject(net, x, y), ThreatModel.parse("linf", 0.02))["rising"] > 0.2


def _short_steps(threat: ThreatModel, steps: int) -> Any:
    from advdpnp.attacks.algorithms.pgd import PGD

    return PGD(threat, steps, threat.eps / 60, random_start=False)


def test_gradients_that_are_no_numbers_are_counted(trained: Any) -> None:
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, z: torch.Tensor) -> torch.Tensor:
            return z.clone()

        @staticmethod
        def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
            return gradients[0] * torch.nan

    class Net(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = Root.apply(trained[0](images))
            return answer

    with evaluation_mode(trained[0]):
        found = measure_gradients(subject(Net(), *trained[1:]), LINF)
    assert found["nan_gradient"] == 1
    assert found["zero_gradient"] == 0


def test_models_that_refuse_what_is_outside_the_box_are_measured_without_it(trained: Any) -> None:
    net, x, y = trained

    class Strict(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if float(images.detach().min()) < -1e-3 or float(images.detach().max()) > 1.001:
                raise ValueError("images must be in [0, 1]")
            answer: torch.Tensor = net(images)
            return answer

    with evaluation_mode(net):
        assert "normalised" not in measure_outputs(subject(Strict(), x, y))["right"]
    assert flags_of(Strict(), x, y, 0.04) == []


def test_a_model_that_fails_while_it_is_suspected_is_flagged_and_evaluated(trained: Any) -> None:
    net, x, y = trained

    class Picky(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = net(images)
            return answer / (images.flatten(1).amax(1) < 0.9)[:, None].float()  # infinite for bright images

    assert "fails" in flags_of(Picky(), x, y)


def test_a_net_that_stops_answering_under_attack_is_told_of_and_what_was_judged_is_kept(
    trained: Any, tmp_path: Path
) -> None:
    net, x, y = trained

    class Cracks(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            off = (images * 255 - (images * 255).round()).abs().amax((1, 2, 3)) > 1e-3
            if bool(off.any()):
                raise ValueError("cracked")
            answer: torch.Tensor = net(images)
            return answer

    images = (x * 255).round().to(torch.uint8)
    dataset = Dataset("corners", tuple("abcd"), Split(images[:0], y[:0]), Split(images[:0], y[:0]), Split(images, y),
                      "none")  # fmt: skip
    model = LoadedModel(Cracks(), "net", "e" * 64, "cnn", "", 1, {})
    sentence = "net: fgsm, linf 0.05: .* fails: cracked; fix the model's code; what was judged before is kept"
    honest = LoadedModel(net, "honest", "f" * 64, "cnn", "", 1, {})
    with pytest.raises(AdvdpnpError, match=sentence):
        evaluate_models([model, honest], dataset, out=tmp_path, attacks="fgsm", eps=[0.05])
    table = read_leaderboard(tmp_path / "leaderboard.csv").set_index("model")
    assert (table["clean"] > 90).all()
    assert table["flags"].to_dict() == {"net": "fails", "honest": ""}
    assert table["fgsm"].notna().to_dict() == {"net": False, "honest": True}
    with pytest.raises(AdvdpnpError, match=sentence):
        evaluate_models([model], dataset, out=tmp_path / "alone", attacks="fgsm", eps=[0.05])
    with pytest.raises(AdvdpnpError, match=r"^model: fgsm, linf 0.05: .* fails: cracked; fix the model's code$"):
        advdpnp.evaluate(Cracks(), images, y, eps=0.05, attacks="fgsm")


@pytest.mark.parametrize(
    "squeeze",
    [lambda z: z.sigmoid(), lambda z: 2 * z.softmax(1), lambda z: z.softmax(1), lambda z: (3 * z).sigmoid()],
)
def test_outputs_that_are_squeezed_are_no_logits(trained: Any, squeeze: Callable[..., torch.Tensor]) -> None:
    net, x, y = trained
    assert "softmax" in flags_of(Squeezed(net, squeeze), x, y, attacks="none")


@pytest.mark.parametrize(
    "squeeze",
    [
        lambda z: z - z.mean(1, keepdim=True),  # as of classes whose vectors add up to nothing
        lambda z: z.log_softmax(1),
        lambda z: 0.01 * z,
        lambda z: nn.functional.normalize(z, dim=1),
        lambda z: z.relu(),
    ],
)
def test_honest_logits_of_any_kind_are_not_taken_for_squeezed_ones(
    trained: Any, squeeze: Callable[..., torch.Tensor]
) -> None:
    net, x, y = trained
    assert "softmax" not in flags_of(Squeezed(net, squeeze), x, y, attacks="none")


class Squeezed(nn.Module):
    def __init__(self, net: nn.Module, squeeze: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.net, self.squeeze = net, squeeze

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.squeeze(self.net(x))


def test_modules_that_stay_in_training_mode_are_named() -> None:
    class Stubborn(nn.BatchNorm2d):
        def train(self, mode: bool = True) -> "Stubborn":
            return super().train(True)  # type: ignore[return-value]

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Stubborn(4), nn.Dropout())
    model[2].training = False
    assert training_modules(model) == ["1"]
    assert [module.training for module in model.modules()] == [True, True, True, False]
    assert training_modules(nn.Sequential(nn.Dropout()).train()) == []


@pytest.fixture
def run(trained: Any, tmp_path: Path) -> Callable[..., Any]:
    net, x, y = trained
    images = (x * 255).round().to(torch.uint8)
    empty = Split(images[:0], y[:0])
    dataset = Dataset("corners", tuple("abcd"), empty, empty, Split(images, y), "none")
    model = LoadedModel(net, "net", "e" * 64, "cnn", "", 1, {})

    def evaluated(**options: Any) -> Any:
        return evaluate_models([model], dataset, out=tmp_path, **{"attacks": "fgsm", "eps": [0.05], **options})

    return evaluated


def test_measurements_are_stored_once_for_the_answers_and_once_per_threat(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stored() -> list[str]:
        (path,) = tmp_path.rglob(INDEX)
        return [each.eps_text for each in read_diagnostics(path.parent)]

    run(attacks="none")
    assert stored() == [""]
    run(eps=[0.05, 0.1])
    assert stored() == ["", "0.05", "0.1"]
    monkeypatch.setattr("advdpnp.eval.run.subject.measure", None)  # would fail if it were called again
    run(eps=["5e-2"])
    assert stored() == ["", "0.05", "0.1"]


def test_a_damaged_measurement_is_one_sentence(
    run: Callable[..., Any], tmp_path: Path, edit_index: Callable[..., None]
) -> None:
    run()
    (path,) = tmp_path.rglob(INDEX)
    kept = path.read_text()
    place = [each.norm for each in read_diagnostics(path.parent)].index("linf")
    numbers = read_diagnostics(path.parent)[place].numbers
    path.write_text(kept[:40])
    with pytest.raises(AdvdpnpError, match=r"units\.json is damaged.*; delete it"):
        run()
    for wrong in (
        {"numbers": None},
        {"samples": "all"},
        {"eps": [0.05]},
        {"numbers": {**numbers, "rising": "0.1"}},
        {"numbers": {**numbers, "zero_gradient": None}},
        {"numbers": {**numbers, "right": {**numbers["right"], "fgsm": [1, 0]}}},
        {"numbers": {**numbers, "right": {**numbers["right"], "fgsm": "1102"}}},
        {"numbers": {**numbers, "right": {**numbers["right"], "fgsm": "110"}}},
    ):
        path.write_text(kept)
        edit_index(path, lambda content, wrong=wrong: content["diagnostics"][place].update(wrong))
        with pytest.raises(AdvdpnpError, match=r"is damaged.*; delete it"):
            build_leaderboard([tmp_path])
    path.unlink()
    run()
    assert read_diagnostics(path.parent)[place].numbers == numbers


def test_what_another_version_measured_is_measured_again_and_never_left_out(
    run: Callable[..., Any], tmp_path: Path, edit_index: Callable[..., None]
) -> None:
    run()
    (path,) = tmp_path.rglob(INDEX)
    stored = {each.norm: each for each in read_diagnostics(path.parent)}["linf"]

    def newer(content: dict[str, Any]) -> None:
        content["diagnostics"][-1].update(version=99, numbers={"something": "new"})

    edit_index(path, newer)
    with pytest.raises(AdvdpnpError, match=r"were made by a newer advdpnp.* update advdpnp, or run"):
        build_leaderboard([tmp_path])
    run()
    assert stored in read_diagnostics(path.parent)
    assert [each.version for each in read_diagnostics(path.parent) if each.norm] == [99, 1]
    assert len(build_leaderboard([tmp_path])) == 1


def test_types_of_corruptions_without_corruptions_are_a_mistake(run: Callable[..., Any]) -> None:
    with pytest.raises(AdvdpnpError, match="add --corruptions auto"):
        run(corruption_types="fog")


def test_measurements_are_found_by_what_they_are_about(tmp_path: Path) -> None:
    def put(norm: str, eps: float | None, samples: int, data: str = "d", numbers: Any = None) -> None:
        write_diagnostics(
            tmp_path, DiagnosticRecord("w", data, samples, 0, norm, eps, str(eps), numbers or {"n": samples})
        )

    put("", None, 10)
    put("linf", 0.1, 10)
    put("linf", 0.1, 50)
    put("linf", 0.2, 99)
    put("l2", 0.1, 99)
    put("linf", 0.1, 99, data="other")
    measured = read_diagnostics(tmp_path)
    assert [each.numbers["n"] for each in diagnostics_of(measured, tmp_path, "w", "d", "linf", 0.1)] == [10, 50]
    assert [each.numbers["n"] for each in diagnostics_of(measured, tmp_path, "w", "d", "", float("nan"))] == [10]
    assert diagnostics_of(measured, tmp_path, "v", "d", "linf", 0.1) == []
    each = DiagnosticRecord("w", "d", 10, 0, "linf", 0.1, "0.1", {"n": 10})
    assert has_diagnostics(tmp_path, each)
    index = read_index(tmp_path)
    assert index is not None
    assert each in index.diagnostics


@pytest.mark.parametrize("attacks", ["none", "fgsm,pgd-3,cw,square,apgd-ce,fab-t"])
def test_a_default_of_float64_changes_nothing(attacks: str) -> None:
    net, generator = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)).eval(),
        torch.Generator(),
    )
    x = torch.rand(6, 1, 8, 8, generator=generator)
    y = net(x).argmax(1)
    found = []
    try:
        for kind in (torch.float32, torch.float64):
            torch.set_default_dtype(kind)
            found.append(evaluate(net, x, y, eps=0.05, attacks=attacks))
    finally:
        torch.set_default_dtype(torch.float32)
    assert [each.row["flags"].iloc[0] for each in found] == [found[0].row["flags"].iloc[0]] * 2
    assert "fails" not in found[1].row["flags"].iloc[0]
    assert (
        found[0]
        .verdicts.drop(columns="seconds", errors="ignore")
        .equals(found[1].verdicts.drop(columns="seconds", errors="ignore"))
    )
