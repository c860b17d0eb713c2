"""What a forger does with a results folder: take it apart, change anything, put it together so that all hashes fit."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from advdpnp.eval.store.adversarial_images import IMAGES
from advdpnp.eval.store.commit import commit
from advdpnp.eval.store.data_files import KINDS, Contents, EvaluationData, data_path, read_contents
from advdpnp.eval.store.index import INDEX, EvaluationRecord, Index, checksum
from advdpnp.eval.store.key import short_hash
from advdpnp.eval.store.schema import FOUND


@dataclass
class Evaluation:
    """One evaluation, open to any change.

    Attributes:
        record: the fields of ``EvaluationRecord``.
        frame: its verdicts.
        images: rows of ``IMAGES``.
    """

    record: dict[str, Any]
    frame: pd.DataFrame
    images: list[dict[str, Any]]

    @property
    def label(self) -> str:
        """What it is called."""
        return str(self.record["identity"]["label"])

    @property
    def broken(self) -> pd.Series:
        """Which samples rest on an adversarial image, bool."""
        return self.frame["success"] & (self.frame["clean_prediction"] == self.frame["label"])

    def drop_images(self, samples: Any) -> None:
        """Forget images of some samples."""
        gone = set(np.asarray(samples).tolist())
        self.images = [row for row in self.images if row["sample"] not in gone]

    def keep(self, samples: Any) -> None:
        """Keep some samples alone."""
        kept = set(np.asarray(samples).tolist())
        self.frame = self.frame[self.frame["sample"].isin(kept)].reset_index(drop=True)
        self.images = [row for row in self.images if row["sample"] in kept]

    def claim_robust(self, which: Any) -> None:
        """Turn successes into survivals without a trace in this file: no image, no distance, a margin that fits."""
        which = np.asarray(which)
        samples = self.frame.loc[which, "sample"]
        self.frame.loc[which, "success"] = False
        self.frame.loc[which, "adversarial_prediction"] = self.frame.loc[which, "clean_prediction"]
        self.frame.loc[which, "norm"] = np.inf
        self.frame.loc[which, "margin"] = self.frame.loc[which, "margin"].abs()
        most = {name: self.frame[name].max() for name in ("forwards", "backwards", "stage")}
        for name, value in most.items():
            self.frame.loc[which, name] = value
        self.drop_images([n for n in samples if n >= 8])
        for row in self.images:  # the images of the first samples are for figures: the clean ones
            if row["sample"] in set(samples):
                row |= {"difference": None, "image": row["clean"], "digest": _digest(row["clean"])}


def _digest(content: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(content).digest()[:8]


Change = Callable[[dict[str, Evaluation]], Any]
"""Changes evaluations, by label, in place."""


def forge(folder: Path, change: Change) -> None:
    """Change what is stored of a model, in its folder; every hash and count fits afterwards."""
    contents = read_contents(folder)
    assert contents is not None
    found = {}
    for record in contents.index.evaluations:
        data = contents.evaluation(record)
        images = [row for table in (data.images() if data.images else ()) for row in table.to_pylist()]
        said = json.loads(json.dumps(asdict(record)))
        found[record.identity["label"]] = Evaluation(said, data.verdicts.to_pandas(), images)
    change(found)
    for kind in KINDS:
        data_path(folder, kind).unlink(missing_ok=True)
    (folder / INDEX).unlink()
    index = Index(contents.index.weights, diagnostics=contents.index.diagnostics)
    commit(Contents(folder, index, {}), [_sealed(each) for each in found.values()])


def _sealed(each: Evaluation) -> EvaluationData:
    said = dict(each.record)
    said["image_shape"] = tuple(said["image_shape"])
    said["hash"] = short_hash(said["identity"])
    record = EvaluationRecord(**{**said, "rows": len(each.frame), "images": len(each.images)})
    verdicts = pa.Table.from_pandas(each.frame, schema=FOUND, preserve_index=False)
    images = pa.Table.from_pylist(each.images, schema=IMAGES)
    return EvaluationData(record, verdicts, (lambda: iter([images])) if len(images) else None)


def edit_index(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the JSON of ``units.json``, and its checksum with it."""
    path = folder / INDEX
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    said = {name: value for name, value in content.items() if name not in ("format", "sha256")}
    path.write_text(json.dumps(content | {"sha256": checksum(said)}), encoding="utf-8")


def edit_model(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change ``model.json``."""
    path = folder / "model.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
