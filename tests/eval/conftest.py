"""Synthetic results: verdict files of models that do not exist, with accuracies chosen by the test."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from torch import Tensor, nn

from advdpnp.attacks import ATTACKS, AttackInfo
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.search_state import AttackResult
from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.datasets import Dataset, Split
from advdpnp.eval.run.components import Components
from advdpnp.eval.store.commit import commit
from advdpnp.eval.store.data_files import Contents, EvaluationData, read_contents, read_images
from advdpnp.eval.store.index import Index, checksum
from advdpnp.eval.store.key import CLEAN, EvaluationKey
from advdpnp.eval.store.model_folder import open_model
from advdpnp.eval.store.model_record import ModelRecord
from advdpnp.eval.store.reader import StoredEvaluation
from advdpnp.eval.store.schema import FOUND

CLASSES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def columns(samples: np.ndarray, wrong: np.ndarray, clean_wrong: np.ndarray, **others: Any) -> dict[str, np.ndarray]:
    """AttackResult of samples: label = index modulo 10, mistakes predict the next class."""
    label = samples % 10
    n = len(samples)
    found = {
        "sample": samples,
        "label": label,
        "clean_prediction": np.where(clean_wrong, (label + 1) % 10, label),
        "adversarial_prediction": np.where(wrong, (label + 1) % 10, label),
        "success": wrong,
        "norm": np.where(wrong & ~clean_wrong, 0.03, 0.0),
        "margin": np.where(wrong, -1.0, 1.0).astype(np.float32),
        "forwards": np.full(n, 21),
        "backwards": np.where(clean_wrong, 0, 20),
        "zero_gradient": np.zeros(n, bool),
        "borderline": np.zeros(n, bool),
        "stage": np.zeros(n, np.int64),
        "refused": np.zeros(n, np.int64),
    }
    return found | others


BF16 = " (bf16 search)"


def definition_of(label: str, threat: ThreatModel, classes: int) -> dict[str, Any]:
    """What a real evaluation stores of an attack; no more than its name where there is none of this name."""
    name = label.removesuffix(BF16)
    try:
        definition = ATTACKS.make(name, threat=threat, classes=classes).definition()
    except AdvdpnpError:
        definition = {"attack": name.partition(":")[0]}  # "transfer:net" is a transfer
    precision = {} if name == label else {"precision": "bf16 search, float32 verdict"}
    return {"attack": definition, **precision}


def write_model(
    out: Path,
    name: str,
    robust: Mapping[str, float],
    *,
    n: int = 200,
    eps: str = "8/255",
    norm: str = "linf",
    seed: int = 0,
    randomised: bool = False,
    others: Mapping[str, Mapping[str, Any]] | None = None,
    images: bool = False,
    cells: Mapping[tuple[str, int], float] | None = None,
    source: str = "cifar10-c (regenerated)",
    method: str = "",
    dataset: str = "digits",
    weights: str = "",
    date: str = "2030-01-01T00:00:00+00:00",
    version: int = 1,
    recipe: str = "",
    training_seed: int | None = None,
    static_batch_size: int = 128,
    corruption_seed: int = 0,
    classes: int = len(CLASSES),
    declared: Mapping[str, AttackInfo] | None = None,
) -> None:
    """Store complete verdicts: of each attack (and "clean"), the first ``share * n`` samples stay right."""
    samples = np.arange(n)
    weights = weights or sha256(name.encode()).hexdigest()
    identity = ModelRecord(
        name,
        weights,
        "small-cnn",
        method,
        94_000,
        CLASSES[:classes],
        dataset,
        recipe_hash=recipe,
        training_seed=training_seed,
    )
    clean_wrong = samples >= round(robust["clean"] * n)
    facts = {"dataset": dataset, "seed": seed, "randomised": randomised, "versions": {"python": "3.11"},
             "device": "cpu", "command": "advdpnp eval", "date": date}  # fmt: skip
    rng = np.random.default_rng(0)
    with open_model(out, identity) as folder:
        for attack, share in robust.items():
            threat = None if attack == CLEAN else ThreatModel.parse(norm, eps)
            definition: dict[str, Any] = {"seed": seed, "shape": static_batch_size, "version": version}
            if threat is not None:
                definition |= definition_of(attack, threat, classes)
            unit = EvaluationKey(attack, "d" * 64, threat, {} if threat is None else definition)
            wrong = clean_wrong | (samples >= round(share * n))
            chosen = (others or {}).get(attack, {})
            found = columns(samples, np.asarray(chosen.get("success", wrong)) | clean_wrong, clean_wrong)
            if threat is not None:
                distance = np.minimum(found["norm"], threat.eps / 2)
                found["norm"] = np.where(found["success"], distance, np.inf)
                found["margin"] = found["margin"] / 2  # an attack that moves images moves margins
            found |= {column: values for column, values in chosen.items() if column != "success"}
            if threat is not None:  # nothing is searched where the clean image is misclassified
                found["norm"] = np.where(clean_wrong, 0.0, found["norm"])
                found["zero_gradient"] = np.asarray(found["zero_gradient"]) & ~clean_wrong
            told = {"attack_info": declared[attack].to_json()} if declared and attack in declared else {}
            told |= facts if threat is not None else {**facts, "seed": None}
            with folder.writer(unit, samples, told) as writer:
                if not images or threat is None:
                    writer.add(found)
                    continue
                places = writer.wants_images(samples)
                x = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (len(places), 1, 32, 1))
                noise = 0.1 * np.sign(rng.standard_normal(x.shape)) * wrong[places, None, None, None]
                writer.add(found, places, x, np.clip(x + noise, 0, 1).astype(np.float32))
        for (kind, severity), share in (cells or {}).items():
            wrong = samples >= round(share * n)
            cell = {"corruption": kind, "severity": severity, "seed": corruption_seed}
            made = {"source": source, "corruption": cell}
            unit = EvaluationKey(f"corruption/{kind}/{severity}", "d" * 64, None, made)
            with folder.writer(unit, samples, {**facts, "seed": None}) as writer:
                writer.add(columns(samples, wrong, wrong))


def linear_net(noise: float = 0.0, seed: int = 1) -> nn.Module:
    """Linear, 4 classes of 8x8 images; with ``noise`` a relative of that without."""
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(seed))
    weight = weight + noise * torch.randn(4, 64, generator=torch.Generator().manual_seed(7))
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    with torch.no_grad():
        model[1].weight.copy_(weight - weight.mean(1, keepdim=True))
        model[1].bias.zero_()
    return model.eval()


@pytest.fixture
def net() -> Callable[..., nn.Module]:
    """``linear_net``."""
    return linear_net


@pytest.fixture
def data() -> Dataset:
    """50 test images of noise, labelled as ``linear_net()`` sees them."""
    images = torch.randint(0, 256, (50, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    empty = Split(images[:0], torch.zeros(0).long())
    with torch.no_grad():
        labels = linear_net()(images / 255).argmax(1)
    return Dataset("toy", tuple("abcd"), empty, empty, Split(images, labels), "none")


@pytest.fixture(scope="session")
def write_results() -> Callable[..., None]:
    """``write_model``, for tests that write to many folders."""
    return write_model


@pytest.fixture
def store_model(tmp_path: Path) -> Callable[..., Path]:
    """``write_model`` into ``tmp_path / "results"``; returns that folder."""

    def store(name: str, robust: Mapping[str, float], **arguments: Any) -> Path:
        write_model(tmp_path / "results", name, robust, **arguments)
        return tmp_path / "results"

    return store


def _edit_index(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    said = {name: value for name, value in content.items() if name not in ("format", "sha256")}
    path.write_text(json.dumps(content | {"sha256": checksum(said)}))


@pytest.fixture(scope="session")
def edit_index() -> Callable[[Path, Callable[[dict[str, Any]], Any]], None]:
    """Change the JSON of a ``units.json``, and its checksum with it: what somebody does who knows the format."""
    return _edit_index


def _edit_rows(unit: StoredEvaluation, change: Callable[[pd.DataFrame], Any]) -> None:
    contents = read_contents(unit.folder)
    assert contents is not None
    frame = contents.verdicts(unit.record).to_pandas()
    change(frame)
    commit(contents, [EvaluationData(unit.record, pa.Table.from_pandas(frame, FOUND, preserve_index=False))])


@pytest.fixture
def edit_rows() -> Callable[[StoredEvaluation, Callable[[pd.DataFrame], Any]], None]:
    """Change the verdicts of a complete evaluation, checksums included."""
    return _edit_rows


def _edit_images(unit: StoredEvaluation, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    contents = read_contents(unit.folder)
    assert contents is not None
    tables = list(read_images(unit.folder, unit.hash))
    rows = change([row for table in tables for row in table.to_pylist()])
    table = pa.Table.from_pylist(rows, schema=tables[0].schema)
    images = [table] if rows else []
    commit(contents, [EvaluationData(unit.record, contents.verdicts(unit.record), lambda: iter(images))])


@pytest.fixture
def edit_images() -> Callable[[StoredEvaluation, Callable[[list[dict[str, Any]]], list[dict[str, Any]]]], None]:
    """Change the rows of an evaluation's images, checksums included."""
    return _edit_images


def _copy_evaluation(unit: StoredEvaluation, folder: Path) -> None:
    source = read_contents(unit.folder)
    assert source is not None
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(unit.folder / "model.json", folder)
    into = read_contents(folder) or Contents(folder, Index(unit.model.weights_hash), {})
    into = replace(into, index=replace(into.index, diagnostics=source.index.diagnostics))
    commit(into, [source.evaluation(unit.record)])


@pytest.fixture(scope="session")
def copy_evaluation() -> Callable[[StoredEvaluation, Path], None]:
    """Have an evaluation in another model's folder too."""
    return _copy_evaluation


@pytest.fixture
def recording() -> Callable[..., Components]:
    """Components of an evaluation that note every search and its samples, in batches of 16.

    With ``stop_after``, Ctrl-C comes after so many samples of PGD.
    """

    def recording(searches: list[tuple[str, list[int]]], stop_after: int | None = None) -> Components:
        def noted(
            model: nn.Module, attack: Any, x: Tensor, y: Tensor, sample: Tensor, **settings: Any
        ) -> Iterator[AttackResult]:
            searches.append((attack.name, sample.tolist()))
            count = 0
            for findings in search(model, attack, x, y, sample, **settings):
                yield findings
                count += len(findings)
                if stop_after is not None and attack.name.startswith("pgd-") and count >= stop_after:
                    raise KeyboardInterrupt

        return Components(static_batch_size=16, search=noted)

    return recording
