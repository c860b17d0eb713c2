r"""Models that mislead an evaluation, mostly by gradient masking, and the flag that each must raise.

    python -m benchmarks.gradient_masking_models \
        --checkpoint results/checkpoints/cifar10-tiny-resnet-pgd-at-s0.safetensors --out results/sanity

Each is a wrapper around an honest network; --trained names networks whose training masks their gradients. Honest
networks must raise no flag.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional

from advdpnp.datasets import Dataset, load_dataset
from advdpnp.eval.api import evaluate_models
from advdpnp.models.checkpoint import weights_hash
from advdpnp.models.loading import LoadedModel, load_model
from benchmarks import timing


class Wrapped(nn.Module):
    """``before`` the net and ``after`` it."""

    def __init__(
        self, net: nn.Module, before: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net, self.before, self.after = net, before, after

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x) if self.before else x
        logits: Tensor = self.net(x)
        return self.after(logits) if self.after else logits


class StubbornBatchNorm(nn.Module):
    """The net behind a normalisation by the batch that is at hand, whatever mode it is told to be in."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.norm = net, nn.BatchNorm2d(3)  # forward takes no notice of its mode; whoever looks, sees it

    def train(self, mode: bool = True) -> "StubbornBatchNorm":
        super().train(mode)
        self.norm.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.batch_norm(x, None, None, training=True)
        logits: Tensor = self.net((normed * 0.25 + 0.47).clamp(0, 1))
        return logits


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return torch.zeros_like(gradients[0])


class Purifier(nn.Module):
    """Moves the image towards what the net is surer of before it answers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.net(inner).logsumexp(1).sum(), inner)
        logits: Tensor = self.net((x + 0.004 * gradient.sign()).clamp(0, 1))
        return logits


class Forgetful(nn.Module):
    """Every other call is answered a little otherwise, as by a counter that nobody resets."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.calls = net, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.net(x)
        return logits + 3 * functional.one_hot(torch.full((len(x),), self.calls % logits.shape[1]), logits.shape[1])


class Memoriser(nn.Module):
    """Answers an image near one that it has seen as it answered that."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.images, self.answers = torch.empty(0), torch.empty(0)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x)
        images = x.detach().flatten(1)
        if not len(self.images):
            self.images, self.answers = images.clone(), logits.detach().clone()
        distance, place = torch.cdist(images, self.images, p=torch.inf).min(1)
        known = distance <= 0.2
        self.images = torch.cat([self.images, images[~known]])
        self.answers = torch.cat([self.answers, logits.detach()[~known]])
        return torch.where(known[:, None], self.answers[place], logits)


class Fragile(nn.Module):
    """Sees only whether a value is a level of 255: what lies between two levels is answered with another class."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        off = ((x * 255 - (x * 255).round()).abs().flatten(1).mean(1, keepdim=True) > 0.05).to(x.dtype)
        logits: Tensor = self.net(x)
        return logits * (1 - off) + off * logits.roll(1, 1)


def wants_normalised(net: nn.Module) -> nn.Module:
    """A net that was trained on normalised images, handed over without its normalisation."""
    return Wrapped(net, lambda x: x * 0.25 + 0.47)


@dataclass(frozen=True)
class Deceiver:
    """How it is made of an honest net, and the flag that it must raise."""

    make: Callable[[nn.Module], nn.Module]
    flag: str


ZOO = {
    "quantised input": Deceiver(lambda net: Wrapped(net, lambda x: (x * 15).round() / 15), "quantised"),
    "zero-gradient layer": Deceiver(lambda net: Wrapped(net, _NoGradient.apply), "zero-gradient"),
    "logits x 1000": Deceiver(lambda net: Wrapped(net, None, lambda z: 1000 * z), "zero-gradient"),
    "softmax output": Deceiver(lambda net: Wrapped(net, None, lambda z: z.softmax(1)), "softmax"),
    "dropout on": Deceiver(lambda net: Wrapped(net, lambda x: functional.dropout(x, 0.05)), "randomised"),
    "added noise": Deceiver(lambda net: Wrapped(net, lambda x: x + 0.05 * torch.randn_like(x)), "randomised"),
    "BatchNorm in train mode": Deceiver(StubbornBatchNorm, "train-mode"),
    "optimises inside": Deceiver(Purifier, "dynamic"),
    "answers change": Deceiver(Forgetful, "randomised"),
    "remembers its images": Deceiver(Memoriser, "stateful"),
    "normalisation left out": Deceiver(wants_normalised, "normalisation"),
    "lives between levels": Deceiver(Fragile, "rounding"),
}
"""By name."""


def judge(
    models: dict[str, nn.Module], dataset: Dataset, out: Path, attacks: str, eps: list[str], limit: int
) -> pd.DataFrame:
    """The rows of all models, with their flags."""
    loaded = [
        LoadedModel(model.eval(), name, weights_hash_of(name, model), type(model).__name__, "", 0, {})
        for name, model in models.items()
    ]
    return evaluate_models(
        loaded, dataset, out=out, attacks=attacks, eps=eps, limit=limit, command="gradient_masking_models"
    )


def weights_hash_of(name: str, model: nn.Module) -> str:
    """Wrappers of one net share its weights; the name tells them apart."""
    return sha256(f"{name} {weights_hash(model)}".encode()).hexdigest()


def main(
    checkpoint: Annotated[list[Path], typer.Option(help="An honest net; the first one is deceived with. Repeatable.")],
    trained: Annotated[
        list[str] | None, typer.Option(help="A net trained to deceive, CHECKPOINT=FLAG; repeatable.")
    ] = None,
    attacks: str = "fgsm,pgd-20,cw",
    eps: Annotated[str, typer.Option(help="Of the honest nets; deceivers get the last one.")] = "2/255,8/255",
    limit: int = 128,
    out: Path = Path("results/sanity"),
) -> None:
    """Evaluate the zoo and honest nets; write a table of the flags they raised, and end in what was not as expected."""
    honest = [load_model(str(path)) for path in checkpoint]
    dataset = load_dataset(str(honest[0].header["dataset"]), train=False)
    deceivers = {name: (each.make(honest[0].model), each.flag) for name, each in ZOO.items()}
    for path, _, flag in (item.partition("=") for item in trained or []):
        deceivers[Path(path).stem] = (load_model(path).model, flag)
    radii = eps.split(",")
    with tempfile.TemporaryDirectory() as folder:
        zoo = judge({name: model for name, (model, _) in deceivers.items()}, dataset, Path(folder) / "zoo", attacks,
                    radii[-1:], limit).set_index("model")  # fmt: skip
        nets = evaluate_models(honest, dataset, out=Path(folder) / "honest", attacks=attacks, eps=radii, limit=limit)
    lines = [
        {"part": "deceivers", "case": name, "expected": flag, "raised": zoo.loc[name, "flags"],
         "as expected": "yes" if flag in zoo.loc[name, "flags"].split("; ") else "NO"}
        for name, (_, flag) in deceivers.items()
    ]  # fmt: skip
    lines += [
        {"part": "honest", "case": f"{row['model']}, {row['eps_text']}", "expected": "", "raised": row["flags"],
         "as expected": "NO" if row["flags"] else "yes"}
        for _, row in nets.iterrows()
    ]  # fmt: skip
    table = pd.DataFrame(lines)
    wrong = table[table["as expected"] == "NO"]
    last = f"{len(table)} rows, not as expected: {', '.join(wrong['case']) or 'none'}"
    timing.publish("gradient_masking_models", "Models that deceive, and honest ones", table, last,
                   threads=torch.get_num_threads(), device=torch.device("cpu"), out=out)  # fmt: skip


if __name__ == "__main__":
    timing.run_script(main)
