"""The example images of one unit, for figures: clean and adversarial, of the samples that come first."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path
from advdpnp.eval.store.schema import Columns

EXAMPLES = 8


class ExampleImages:
    """The images of the ``EXAMPLES`` lowest sample indices of one unit."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held: dict[int, dict[str, np.ndarray]] = {}
        self._changed = False
        if path.exists():
            stored = read_arrays(path)
            for place, sample in enumerate(stored["sample"]):
                self._held[int(sample)] = {name: values[place] for name, values in stored.items()}

    def places(self, samples: np.ndarray) -> np.ndarray:
        full = len(self._held) >= EXAMPLES
        wanted = samples < max(self._held) if full else np.ones(len(samples), dtype=bool)
        lowest_first = np.flatnonzero(wanted)[np.argsort(samples[wanted], kind="stable")]
        return lowest_first[:EXAMPLES]

    def add(self, columns: Columns, x: np.ndarray, x_adv: np.ndarray) -> None:
        for place, sample in enumerate(columns["sample"].tolist()):
            self._held[sample] = {
                "sample": np.asarray(sample),
                "label": columns["label"][place],
                "clean_prediction": columns["clean_prediction"][place],
                "adversarial_prediction": columns["adversarial_prediction"][place],
                "success": columns["success"][place],
                "x": np.asarray(x[place], dtype=np.float32),
                "x_adv": np.asarray(x_adv[place], dtype=np.float32),
            }
            if len(self._held) > EXAMPLES:
                del self._held[max(self._held)]
            self._changed = True

    def take_over(self, stored: Mapping[str, np.ndarray]) -> None:
        """Images that another process has kept."""
        places = self.places(stored["sample"])
        columns = {name: values[places] for name, values in stored.items() if name not in ("x", "x_adv")}
        self.add(columns, stored["x"][places], stored["x_adv"][places])

    def write(self) -> None:
        if not self._changed:
            return
        rows = [self._held[sample] for sample in sorted(self._held)]
        write_arrays(self._path, {name: np.stack([row[name] for row in rows]) for name in rows[0]})
        self._changed = False


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name.

    An ``.examples.npz`` has sample, label, clean_prediction, adversarial_prediction (int64) and success (bool), each
    (n,); x and x_adv, float32 (n, c, h, w).

    Raises:
        AdvdpnpError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:
        raise AdvdpnpError(f"the file {path} is damaged; delete it and run the same evaluation again") from error


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write what ``read_arrays`` reads, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, **arrays)
