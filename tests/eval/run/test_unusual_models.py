"""Nets that do what nets should not: each is judged rightly, flagged, or refused in one sentence."""

import math

import pytest
import torch
from torch import nn

import advdpnp
from advdpnp.base.errors import AdvdpnpError


class Normalised(nn.Module):
    """A linear net that normalises its images, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(27, 4)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(4, 27, generator=generator))
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.sub_(0.4).div_(0.3) if self.in_place else (x - 0.4) / 0.3
        return self.linear(x.flatten(1))


class BatchMean(Normalised):
    """Subtracts the mean of its batch, as BatchNorm without running statistics does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(70, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, Normalised(False)(x).argmax(1)


def test_a_net_that_writes_into_its_input_is_judged_as_one_that_does_not(images):
    x, y = images
    before = x.clone()
    tables = []
    for in_place in (False, True):
        net = Normalised(in_place)
        net.linear.bias.data.zero_()
        result = advdpnp.evaluate(net, x, y, eps=0.05, attacks="fgsm,pgd-5,torchattacks:PGD")
        assert result.row["flags"].item() == ""
        tables.append(result.verdicts[["attack", "sample", "success", "norm", "margin"]])
    assert tables[0].equals(tables[1])
    assert torch.equal(x, before)


def test_a_net_that_looks_at_its_whole_batch_is_flagged(images):
    x, y = images
    assert "batch-dependent" in advdpnp.evaluate(BatchMean(False), x, y, eps=0.05, attacks="fgsm").row["flags"].item()
    three = advdpnp.evaluate(BatchMean(False), x[:3], y[:3], eps=0.05, attacks="fgsm")
    assert "batch-dependent" in three.row["flags"].item()


class Failing(nn.Module):
    """Right forward, wrong backward."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return 1 // 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.Function.apply(x).flatten(1)[:, :4]


class Whole(Normalised):
    """Whole numbers for logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).round().long()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Failing, "fails when it is differentiated: integer division"),
        (lambda: Whole(False), "float logits"),
        (lambda: lambda x: x, r"must return logits \(n, classes\)"),
        (lambda: "runs/x", "must be a torch.nn.Module or a function of images, not str"),
    ],
)
def test_nets_that_cannot_be_attacked_are_refused(make, said, images):
    with pytest.raises(AdvdpnpError, match=said):
        advdpnp.evaluate(make(), *images, eps=0.05, attacks="fgsm")


@pytest.mark.parametrize("values", [{"seed": -1}, {"seed": 2**63}, {"batch_size": 0}, {"attacks": f"pgd-{10**20}"}])
def test_numbers_out_of_range_are_refused(values, images):
    with pytest.raises(AdvdpnpError):
        advdpnp.evaluate(Normalised(False), *images, eps=0.05, **{"attacks": "fgsm", **values})


def test_norms_of_the_verdicts_are_within_eps_or_infinite(images):
    verdicts = advdpnp.evaluate(Normalised(False), *images, eps=0.05, attacks="fgsm").verdicts
    attacked = verdicts[verdicts["attack"] == "fgsm"]
    assert (attacked.loc[attacked["success"], "norm"] <= 0.05 + 1e-6).all()
    assert attacked.loc[~attacked["success"], "norm"].map(math.isinf).all()


class Failing(Normalised):
    """Does something else after so many calls."""

    def __init__(self, after: int, what: str) -> None:
        super().__init__(False)
        self.after, self.what, self.calls = after, what, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls <= self.after:
            return super().forward(x)
        if self.what == "exit":
            raise SystemExit(0)
        raise RuntimeError("boom")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("exit", "forward pass fails: 0"),
        ("raise", "forward pass fails: boom"),
    ],
)
def test_a_net_that_fails_late_is_named(images, what, sentence, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(AdvdpnpError, match=f"a net: .*{sentence}"):
            advdpnp.evaluate(Failing(40, what), *images, eps=0.01, attacks="square", name="a net")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("after", range(12))
def test_a_net_that_leaves_early_is_no_success(images, after):
    with pytest.raises(AdvdpnpError, match="fails"):
        advdpnp.evaluate(Failing(after, "exit"), *images, eps=0.01, attacks="fgsm")
