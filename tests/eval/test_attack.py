"""``advdpnp.attack`` and ``advdpnp.perturb``: one batch, in the caller's order, with the verdicts of ``evaluate``."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import advdpnp
from advdpnp.attacks import ThreatModel
from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.attacks.criteria import Targeted
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.norms import random_start
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw, seed_of

N = 24


class Net(nn.Module):
    """Five classes of 8x8 images; computes in float64, so no sign or verdict depends on a processor's rounding."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.norm = nn.BatchNorm2d(1)
        self.weight = nn.Parameter(torch.randn(64, 5, generator=generator))
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.tanh(self.dropout(self.norm(x)).flatten(1).double() - 0.5)
        return (hidden @ self.weight.double()).float()


@pytest.fixture
def net() -> Net:
    return Net().train()  # left in training mode: calls must not see it, and must not change it


@pytest.fixture
def x() -> Tensor:
    return torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def y(x: Tensor) -> Tensor:
    with torch.no_grad():
        labels = Net().eval()(x).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5
    return labels


def predict(x: Tensor) -> Tensor:
    with torch.no_grad():
        return Net().eval()(x.float()).argmax(1)


def test_a_batch_comes_back_in_order_with_the_verdicts_of_an_evaluation(net: Net, x: Tensor, y: Tensor) -> None:
    result = advdpnp.attack(net, x, y, "pgd-5", eps=0.03)
    x_adv, success = result
    assert x_adv is result.x_adv
    assert (x_adv.dtype, x_adv.shape, len(result)) == (torch.float32, x.shape, N)
    assert torch.equal(predict(x_adv) != y, success)
    assert torch.equal(predict(x_adv), result.prediction)
    assert 3 < int(success.sum()) < N
    assert torch.equal(x_adv[~success], x[~success])
    assert torch.equal(x_adv[:3], x[:3])  # clean mistakes
    assert bool(((x_adv - x).abs().flatten(1).amax(1) <= 0.03 + 1e-6).all())
    far = (x_adv - x).abs().double().flatten(1).amax(1)
    assert torch.allclose(result.distance[success], far[success])
    assert bool(torch.isinf(result.distance[~success]).all())
    verdicts = advdpnp.evaluate(net, x, y, attacks="pgd-5", eps=0.03).verdicts
    stored = verdicts[verdicts["attack"] == "pgd-5"].sort_values("sample")
    assert stored["success"].tolist() == success.tolist()
    assert stored["adversarial_prediction"].tolist() == result.prediction.tolist()
    np.testing.assert_array_equal(stored["norm"], result.distance.numpy())
    assert stored["forwards"].tolist() == result.forwards.tolist()
    assert stored["backwards"].tolist() == result.backwards.tolist()


def test_images_of_any_kind_and_order_give_the_same(net: Net, x: Tensor, y: Tensor) -> None:
    pixels = (x * 255).round().to(torch.uint8)
    expected = advdpnp.attack(net, pixels.float() / 255, y, "fgsm", eps="8/255")
    for images, labels in ((pixels, y), (pixels.numpy(), y.numpy()), (pixels.double() / 255, y.tolist())):
        found = advdpnp.attack(net, images, labels, "fgsm")
        assert torch.equal(found.x_adv.float(), expected.x_adv)
        assert torch.equal(found.success, expected.success)
    order = torch.arange(N).flip(0)
    turned = advdpnp.attack(net, pixels[order], y[order], "fgsm")
    assert torch.equal(turned.x_adv[order], expected.x_adv)


def state_of(net: nn.Module) -> list[Any]:
    modes = [module.training for module in net.modules()]
    flags = [(weight.requires_grad, weight.grad) for weight in net.parameters()]
    buffers = [buffer.clone() for buffer in net.buffers()]
    generators = [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]  # type: ignore[index]
    return [modes, flags, [buffer.tolist() for buffer in buffers], generators, torch.is_grad_enabled()]


@pytest.mark.parametrize(
    "around",
    [torch.enable_grad, torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", dtype=torch.bfloat16)],
)
@pytest.mark.parametrize("name", ["pgd-3", "torchattacks:FGSM", "pyautoattack:apgd-ce"])
def test_no_mode_of_the_caller_matters_and_none_is_changed(
    net: Net, x: Tensor, y: Tensor, around: Callable[[], Any], name: str
) -> None:
    expected = advdpnp.attack(Net(), x[:6], y[:6], name, eps=0.05)
    net.weight.requires_grad_(False)
    before = state_of(net)
    with around():
        found = advdpnp.attack(net, x[:6] + 0, y[:6] + 0, name, eps=0.05)
    assert state_of(net) == before
    assert torch.equal(found.x_adv, expected.x_adv)
    assert torch.equal(found.success, expected.success)
    assert not found.x_adv.requires_grad
    assert torch.equal(predict(found.x_adv) != y[:6], found.success)


def test_a_minimum_norm_attack_searches_once_for_all_radii_and_tells_what_single_calls_tell(
    net: Net, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from advdpnp.attacks.algorithms.cw_l2 import CWL2
    from advdpnp.eval import attack as module

    searches = []
    run = module.search
    monkeypatch.setattr(module, "search", lambda *values, **options: searches.append(1) or run(*values, **options))
    nearest = CWL2(ThreatModel.parse("l2", 1.0), searches=3, iterations=20)
    radii = [0.2, "0.6", 0.05]
    together = advdpnp.attack(net, x[:8], y[:8], nearest, eps=radii)
    assert len(searches) == 1
    for eps, found in zip(radii, together, strict=True):
        alone = advdpnp.attack(net, x[:8], y[:8], nearest, eps=eps)
        assert found.threat == alone.threat == ThreatModel.parse("l2", eps)
        for name in ("x_adv", "success", "distance", "prediction", "forwards", "backwards"):
            assert torch.equal(getattr(found, name), getattr(alone, name)), name
    counts = [int(each.success.sum()) for each in together]
    assert counts[2] < counts[0] < counts[1]
    small, large = advdpnp.attack(net, x[:8], y[:8], "fgsm", eps=[0.01, 0.2])
    assert len(searches) == 6
    assert torch.equal(large.x_adv, advdpnp.attack(net, x[:8], y[:8], "fgsm", eps=0.2).x_adv)
    assert int(small.success.sum()) < int(large.success.sum())


def test_targets_are_reached_and_named(net: Net, x: Tensor, y: Tensor) -> None:
    for targets in ("next", (y + 1) % 5, ((y + 1) % 5).tolist()):
        found = advdpnp.attack(net, x, y, "pgd-10", eps=0.1, targets=targets)
        assert torch.equal(predict(found.x_adv) == (y + 1) % 5, found.success)
        assert int(found.success.sum()) > 3
        assert found.attack == f"pgd-10 (targeted: {'next' if isinstance(targets, str) else 'labels'})"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"targets": y}, f"the target of {N} images is their label"),
        ({"targets": y[:2]}, f"there are {N} images but 2 targets"),
        ({"targets": [9] * N}, "the targets must be classes of the model, which has 5"),
        ({"targets": "worst"}, "there are no targets called 'worst'"),
        ({"targets": "labels"}, "give the targets themselves"),
        ({"targets": "next", "attack": "square"}, "'square' cannot aim at targets; fgsm, pgd-N, cw,"),
        ({"targets": "next", "attack": "torchattacks:PGD"}, "cannot aim at targets"),
        ({"targets": "next", "attack": "apgd-t"}, "chooses its own targets; use apgd-dlr or apgd-ce"),
    ]
    for options, sentence in cases:
        with pytest.raises(AdvdpnpError, match=sentence):
            advdpnp.attack(net, x, y, **options)


def test_objects_bring_their_threat_model_and_a_given_one_counts_more(net: Net, x: Tensor, y: Tensor) -> None:
    threat = ThreatModel.parse("linf", 0.05)
    mine = AttackEnsemble("mine", (PGD(threat, 2, name="a"), PGD(threat, 3, objective="margin", name="b")))
    found = advdpnp.attack(net, x, y, mine)
    assert (found.threat, found.attack) == (threat, "mine")
    other = advdpnp.attack(net, x, y, mine, eps=0.01)
    assert other.threat.eps == 0.01
    assert bool(((other.x_adv - x).abs() <= 0.01 + 1e-6).all())
    assert int(other.success.sum()) < int(found.success.sum())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"attack": "pdg-20"}, "there is no attack called 'pdg-20'"),
        ({"attack": "all"}, "'all' is not one attack"),
        ({"attack": ["fgsm", "pgd-2"]}, "one attack is run at a time"),
        ({"attack": 3}, "attacks are a text"),
        ({"eps": []}, "there is no eps"),
        ({"eps": [0.1, True]}, "eps cannot be True"),
        ({"x": torch.rand(4, 1, 8, 8) * 3}, r"must lie in \[0, 1\]"),
        ({"x": torch.rand(0, 1, 8, 8), "y": torch.zeros(0).long()}, "there are no images to attack"),
        ({"y": [0, 1]}, "labels must be 4 integers"),
        ({"y": [0, 1, 2, 7]}, "label 7 is not a class of the model"),
        ({"model": "net.pt"}, "must be a torch.nn.Module"),
        ({"x": torch.rand(4, 3, 8, 8)}, r"the model fails on images of shape \(3, 8, 8\)"),
        ({"precision": "64"}, "no precision called '64'"),
        ({"device": "abacus"}, "the device 'abacus' cannot be used"),
    ],
)
def test_mistakes_are_one_sentence(net: Net, options: dict[str, Any], sentence: str) -> None:
    arguments = {"model": net, "x": torch.rand(4, 1, 8, 8), "y": [0, 1, 2, 3], "attack": "fgsm", **options}
    with pytest.raises(AdvdpnpError, match=sentence):
        advdpnp.attack(**arguments)


def test_batches_without_images_several_radii_and_other_attacks_of_perturb_are_refused(
    net: Net, x: Tensor, y: Tensor
) -> None:
    for size in (0, -1):
        with pytest.raises(AdvdpnpError, match=f"a batch size of {size} leaves no image"):
            advdpnp.attack(net, x, y, "pgd-2", batch_size=size)
    with pytest.raises(AdvdpnpError, match="one eps"):
        advdpnp.perturb(net, x, y, "pgd-2", eps=[0.1, 0.2])
    with pytest.raises(AdvdpnpError, match="not 'autoattack'"):
        advdpnp.perturb(net, x, y, "autoattack")


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError])
def test_a_package_gets_smaller_batches_where_memory_is_short(
    net: Net, x: Tensor, y: Tensor, error: type[Exception]
) -> None:
    sizes = []

    class Hungry:
        name, norms, threat = "hungry", ("linf",), ThreatModel.parse("linf", 0.1)

        def definition(self) -> dict[str, Any]:
            return {"attack": "hungry"}

        def run(self, model: nn.Module, samples: Any, options: Any) -> Any:
            sizes.append(options.batch_size)
            if options.batch_size > 2:
                raise error
            yield from advdpnp.attacks.resolve_attacks("torchattacks:FGSM", self.threat, 5)[0][1].run(
                model, samples, options
            )

    assert len(advdpnp.attack(net, x, y, Hungry(), batch_size=8)) == len(x)
    assert sizes == [8, 4, 2]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"norm": 2}, "no norm called '2'; write l2"),
        ({"norm": float("inf")}, "no norm called 'inf'; write linf"),
        ({"targets": 3}, "targets must be integers, one per image"),
        ({"x": iter(())}, "has labels of its own; give it alone, to advdpnp.evaluate"),
    ],
)
def test_a_near_miss_says_what_is_meant(net: Net, x: Tensor, y: Tensor, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(AdvdpnpError, match=sentence):
        advdpnp.attack(**{"model": net, "x": x, "y": y, "attack": "fgsm", **options})


def test_radii_may_be_numbers_of_numpy(net: Net, x: Tensor, y: Tensor) -> None:
    found = advdpnp.attack(net, x, y, "fgsm", eps=np.array([0.1, 0.2]))
    assert [each.threat.eps for each in found] == [0.1, 0.2]
    assert advdpnp.attack(net, x, y, "fgsm", eps=np.float32(0.5)).threat.eps == 0.5


def test_a_net_for_bytes_gets_its_range(net: Net, x: Tensor, y: Tensor) -> None:
    expected = advdpnp.attack(net, x, y, "fgsm", eps=0.2)
    found = advdpnp.attack(lambda images: net(images / 255), x, y, "fgsm", eps=0.2, input_range=(0, 255))
    torch.testing.assert_close(found.x_adv, expected.x_adv)
    assert found.success.equal(expected.success)


def test_the_result_prints_as_one_line(net: Net, x: Tensor, y: Tensor) -> None:
    found = advdpnp.attack(net, x, y, "fgsm", eps=0.2)
    count = int(found.success.sum())
    assert repr(found) == (f"AdversarialImages(fgsm, linf 0.2: {count} of {len(x)} successes, x_adv {tuple(x.shape)})")


def test_sheets_show_clean_adversarial_and_difference(net: Net, x: Tensor, y: Tensor, tmp_path: Path) -> None:
    found = advdpnp.attack(net, x, y, "fgsm", eps=0.2)
    (path,) = found.save(tmp_path / "sheets")
    assert path.name == "images-000000.png"
    pixels = np.asarray(Image.open(path))
    assert pixels.shape == (2 * (3 * 66 + 4), 16 * 66, 3)
    clean, adversarial, difference = (
        pixels[line * 66 : line * 66 + 64 : 8, 5 * 66 : 5 * 66 + 64 : 8, 0] for line in range(3)
    )
    np.testing.assert_array_equal(clean, (x[5, 0] * 255).round().numpy())
    np.testing.assert_array_equal(adversarial, (found.x_adv[5, 0] * 255).round().numpy())
    assert (difference.min() < 120) == bool(found.success[5])  # full red or blue, else all white
    (tmp_path / "taken").write_text("")
    with pytest.raises(AdvdpnpError, match="cannot write"):
        found.save(tmp_path / "taken")


def test_a_bar_is_drawn_when_asked(net: Net, x: Tensor, y: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    advdpnp.attack(net, x[:4], y[:4], "fgsm")
    assert capsys.readouterr().err == ""
    advdpnp.attack(net, x[:4], y[:4], "fgsm", progress=True)
    assert "attack: 4 images under fgsm, linf 8/255" in capsys.readouterr().err


def test_perturb_is_a_plain_pgd_in_eval_mode_and_leaves_no_trace(net: Net, x: Tensor, y: Tensor) -> None:
    oracle, eps = Net().eval(), 0.1
    x_adv = random_start(x, ThreatModel.parse("linf", eps), Draw.of(seed_of(7, "perturb"), torch.arange(N)), 0 * y)
    for _ in range(4):
        leaf = x_adv.clone().requires_grad_()
        nn.functional.cross_entropy(oracle(leaf), y, reduction="sum").backward()
        x_adv = (x + (leaf + eps / 4 * leaf.grad.sign() - x).clamp(-eps, eps)).clamp(0, 1).detach()  # type: ignore[union-attr]
    before = state_of(net)
    with torch.no_grad():
        found = advdpnp.perturb(net, x, y, "pgd-4", eps=eps, seed=7)
    assert state_of(net) == before
    assert torch.allclose(found, x_adv, atol=1e-6)
    assert (found.requires_grad, found.grad_fn) == (False, None)
    assert torch.equal(advdpnp.perturb(net, x, y, PGD(ThreatModel.parse("linf", eps), 4), seed=7), found)
    with torch.inference_mode():
        assert torch.equal(advdpnp.perturb(net, x + 0, y + 0, "pgd-4", eps=eps, seed=7), found)


@pytest.mark.parametrize("attack", ["fgsm", "pgd-3", "cw"])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.05), ("l2", 0.5)])
def test_perturb_moves_every_image_the_misclassified_too(
    net: Net, x: Tensor, y: Tensor, attack: str, norm: str, eps: float
) -> None:
    with torch.no_grad():
        prediction = net(x).argmax(1)
    labels = torch.where(torch.arange(len(y)) % 2 == 0, prediction, (prediction + 1) % int(y.max() + 1))
    moved = ThreatModel.parse(norm, eps).distance(x, advdpnp.perturb(net, x, labels, attack, eps=eps, norm=norm))
    assert bool((moved > 0.1 * eps).all()), moved


def test_perturb_draws_other_starts_at_every_call(net: Net, x: Tensor, y: Tensor) -> None:
    one, other = (advdpnp.perturb(net, x, y, "pgd-1", eps=0.1) for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.equal(*(advdpnp.perturb(net, x, y, "pgd-1", eps=0.1, seed=3) for _ in range(2)))


def test_perturb_works_inside_autocast_and_in_a_training_step(net: Net, x: Tensor, y: Tensor) -> None:
    seen = []
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    module.register_forward_hook(lambda _, inputs, output: seen.append((output.dtype, module.training)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        x_adv = advdpnp.perturb(module, x, y, "pgd-2", eps=0.1)
        loss = nn.functional.cross_entropy(module(x_adv), y)
    loss.backward()
    assert seen == [(torch.bfloat16, False)] * 2 + [(torch.bfloat16, True)]
    assert all(weight.grad is not None for weight in module.parameters())
    assert x_adv.dtype == torch.float32
    assert bool(((x_adv - x).abs() <= 0.1 + 1e-6).all())
    for attack in ("square", "cw-l2", Targeted("next")):
        with pytest.raises(AdvdpnpError, match=r"perturb runs fgsm, pgd-N and cw|does not support|attacks are a text"):
            advdpnp.perturb(module, x, y, attack, eps=0.1)  # type: ignore[arg-type]


def test_images_come_back_in_the_precision_they_were_given_in(net: Any, x: Tensor, y: Tensor) -> None:
    exact = x.double() + 1e-9 * (x < 0.5)  # no float32 holds these
    found = advdpnp.attack(net, exact, y, "pgd-3", eps=0.05)
    assert (found.x_adv.dtype, found.x.dtype) == (torch.float64, torch.float64)
    assert torch.equal(found.x_adv[~found.success], exact[~found.success])
    assert torch.equal(found.success, advdpnp.attack(net, x, y, "pgd-3", eps=0.05).success)
    assert advdpnp.attack(net, x.half(), y, "pgd-3", eps=0.05).x_adv.dtype == torch.float32  # as it was verified
    assert advdpnp.perturb(net, exact, y, "pgd-3", eps=0.05).dtype == torch.float64


def test_a_model_that_returns_an_array_is_told_so(x: Tensor, y: Tensor) -> None:
    def arrays(images: Tensor) -> Any:
        return images.detach().flatten(1)[:, :4].numpy()

    for call in (advdpnp.attack, advdpnp.perturb):
        with pytest.raises(AdvdpnpError, match=r"a torch\.Tensor.*(got|not) ndarray"):
            call(arrays, x, y, "fgsm", eps=0.05)
