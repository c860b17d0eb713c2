r"""Our AutoAttack against the package's own, stage by stage: accuracy left, disagreements and processor time.

    python -m benchmarks.parity --model benchmarks.public_models:resnet2b --weights resnet2b.pth --eps 2/255 \
        --limit 1000 --seeds 0,1,2 --out results/benchmarks

Both attack the same images. Each stage gets what its own predecessors left, as in the published loop; so the accuracy
after the last stage is that of AutoAttack. What is finished is kept (in OUT/parity.csv, one line per net, eps, seed
and stage) and not done again.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from torch import Tensor, nn

from advdpnp.attacks import AttackResult, ThreatModel, search
from advdpnp.attacks.algorithms.auto_pgd import apgd_ce, apgd_t
from advdpnp.attacks.algorithms.fab import fab_t
from advdpnp.attacks.algorithms.square import square
from advdpnp.base.compat import import_pyautoattack
from advdpnp.base.files import write_text
from advdpnp.base.statistics import mcnemar
from advdpnp.datasets import load_dataset, to_float
from advdpnp.eval.run.components import STATIC_BATCH_SIZES
from advdpnp.models.loading import load_model
from benchmarks import timing

STAGES: dict[str, Callable[[ThreatModel, int], Any]] = {
    "apgd-ce": apgd_ce, "apgd-t": apgd_t, "fab-t": fab_t, "square": square,
}  # fmt: skip
KEYS = ["net", "norm", "eps", "n", "seed"]


@dataclass(frozen=True)
class Stage:
    """What one side's stage left of the images it was given: which are robust, and the processor's seconds."""

    robust: Tensor
    seconds: float


def ours(model: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, stage: str, seed: int, rows: Tensor) -> Stage:
    """One of our stages on the images numbered ``rows``."""
    attack, begin = STAGES[stage](threat, _classes(model, x)), time.process_time()
    found = list(search(model, attack, x[rows], y[rows], rows, seed=seed, static_batch_size=STATIC_BATCH_SIZES["cpu"]))
    seconds = time.process_time() - begin
    findings = AttackResult.concatenate(found)
    robust = torch.zeros(len(x), dtype=torch.bool)
    robust[findings.sample] = ~findings.success
    return Stage(robust, seconds)


def theirs(
    model: nn.Module,
    threat: ThreatModel,
    x: Tensor,
    y: Tensor,
    stage: str,
    seed: int,
    rows: Tensor,
    device: str = "cpu",
) -> Stage:
    """The same stage of pyautoattack, in its default batches; ``x``, ``y`` and ``rows`` are on the device."""
    norm = {"linf": "Linf", "l2": "L2"}[threat.norm]
    package = import_pyautoattack().AutoAttack(
        model, norm=norm, eps=threat.eps, version="standard", seed=seed, device=device
    )
    package.attacks_to_run = [stage]
    begin = time.process_time()
    x_adv, _ = package.run_standard_evaluation(x[rows], y[rows])
    seconds = time.process_time() - begin
    robust = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with torch.no_grad():
        robust[rows] = torch.cat([model(part).argmax(1) for part in x_adv.to(x.device).split(250)]) == y[rows]
    return Stage(robust, seconds)


def compare(model: nn.Module, threat: ThreatModel, x: Tensor, y: Tensor, seed: int) -> list[dict[str, Any]]:
    """One line per stage."""
    with torch.no_grad():
        right = model(x).argmax(1) == y
    left = {ours: right, theirs: right}
    lines = []
    for stage in STAGES:
        found = {
            side: side(model, threat, x, y, stage, seed, rows.nonzero()[:, 0]) if bool(rows.any()) else Stage(rows, 0.0)
            for side, rows in left.items()
        }
        left = {side: each.robust for side, each in found.items()}
        broken, only = [~left[side] for side in (ours, theirs)], {}
        only["only_ours_breaks"], only["only_theirs_breaks"] = (
            " ".join(map(str, (a & ~b).nonzero()[:, 0].tolist())) for a, b in (broken, broken[::-1])
        )
        lines.append(
            {
                "seed": seed,
                "stage": stage,
                "ours": 100 * float(left[ours].double().mean()),
                "theirs": 100 * float(left[theirs].double().mean()),
                "p": mcnemar(*(int((a & ~b).sum()) for a, b in (broken, broken[::-1]))),
                "our_seconds": found[ours].seconds,
                "their_seconds": found[theirs].seconds,
                **only,
            }
        )
    return lines


def _classes(model: nn.Module, x: Tensor) -> int:
    with torch.no_grad():
        return int(model(x[:1]).shape[1])


def summary(frame: pd.DataFrame) -> str:
    """One line per net, eps and stage: means over seeds, the largest difference and the ratio of times."""
    lines = []
    for (net, norm, eps, n, stage), rows in frame.groupby([*KEYS[:-1], "stage"], sort=False):
        difference = (rows["ours"] - rows["theirs"]).mean()
        ratio = rows["their_seconds"].sum() / max(rows["our_seconds"].sum(), 1e-9)
        lines.append(
            {
                "net": net, "threat": f"{norm} {eps}", "n": n, "seeds": len(rows), "after": stage,
                "ours": f"{rows['ours'].mean():.2f}", "theirs": f"{rows['theirs'].mean():.2f}",
                "difference": f"{difference:+.2f}", "smallest p": f"{rows['p'].min():.2f}",
                "processor time, theirs / ours": f"{ratio:.2f}",
            }
        )  # fmt: skip
    return str(pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True))


def main(
    model: Annotated[str, typer.Option(help="As advdpnp eval takes it, or a checkpoint.")],
    out: Annotated[Path, typer.Option(help="Folder of parity.csv and parity.md.")],
    weights: Annotated[Path | None, typer.Option(help="Of a net of other people.")] = None,
    dataset: str = "cifar10",
    norm: str = "linf",
    eps: str = "2/255",
    limit: int = 1000,
    seeds: str = "0,1,2",
    threads: int = 1,
) -> None:
    """Compare on one net; lines of other nets that are in OUT already stay."""
    data = load_dataset(dataset, train=False)
    loaded = load_model(model, weights=weights, dataset=data)
    x, y = to_float(data.test.images[:limit]), data.test.labels[:limit]
    threat = ThreatModel.parse(norm, eps)
    csv = out / "parity.csv"
    net = loaded.model.eval().requires_grad_(False)
    with timing.threads(threads):
        for seed in map(int, seeds.split(",")):
            key = dict(zip(KEYS, (loaded.name, norm, eps, len(x), seed), strict=True))
            before = (
                pd.read_csv(csv, dtype={"eps": str}, keep_default_na=False)
                if csv.exists()
                else pd.DataFrame(columns=KEYS)
            )
            if (before[KEYS] == pd.Series(key)).all(axis=1).any():
                continue
            new = pd.DataFrame([{**key, **line, "threads": threads} for line in compare(net, threat, x, y, seed)])
            frame = new if before.empty else pd.concat([before, new], ignore_index=True)
            out.mkdir(parents=True, exist_ok=True)
            write_text(csv, frame.to_csv(index=False, float_format="%.4f"))
            print(summary(new), flush=True)
    frame = pd.read_csv(csv, dtype={"eps": str}, keep_default_na=False)
    facts = timing.circumstances(timing.command_of("benchmarks.parity"), threads, torch.device("cpu"))
    told = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    write_text(out / "parity.md", f"# AutoAttack, ours and pyautoattack's\n\nLast run:\n\n{told}\n\n{summary(frame)}\n")


if __name__ == "__main__":
    timing.run_script(main)
