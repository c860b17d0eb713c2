"""The columns of a leaderboard: their names, their types and their meanings."""

import io
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.files import describe_fault, read_bounded
from advdpnp.base.untrusted.text import LONGEST_NAME, from_csv_cell, shown
from advdpnp.eval.analysis.corruptions import COUNT, MEAN, is_detail
from advdpnp.eval.analysis.rows import Row

LARGEST_CSV = 2**25
"""Bytes of a ``leaderboard.csv``: some 20,000 rows."""
_MOST_COLUMNS, _MOST_CELLS, _LONGEST_CELL = 5_000, 4_000_000, 100_000

_TEXT = (
    "method", "architecture", "norm", "eps_text", "dataset", "corruption_source", "weights_hash", "data_hash",
    "definitions", "versions", "device", "date", "command", "flag_details", "recipe_hash", "samples_hash",
    "attack_definitions",
)  # fmt: skip
_SOMETIMES = ("dtype", "samples", "mce_baseline", "standard_autoattack", "source", "venue", "paper", "url")

DISTANCES = ("median_distance:", "mean_distance:")
"""Before the name of a minimum-norm attack."""

_MEANINGS = {
    "model": "name of the model",
    "clean": "percent of the n images classified right unchanged",
    "worst_case": "percent of the n images that neither the clean image nor any attack breaks",
    MEAN: "mean accuracy in percent over the 75 cells of the benchmark (15 corruptions, 5 severities)",
    COUNT: "number of images behind the columns of corruptions",
    "n": "number of images, the same for clean and all attacks of the row",
    "flags": "codes of what makes the row doubtful, with '; ' between them",
    "method": "how the model was trained, as its checkpoint says",
    "architecture": "of the model",
    "parameters": "their number",
    "dtype": "precision of the weights and of the verdicts; float32 where it is empty",
    "min_separation": "smallest angle between the vectors of two classes, in degrees",
    "training_seconds": "what training took until the epoch that was kept",
    "recipe_hash": "hash of the recipe and the data set of the training, without the seed; empty if unknown",
    "training_seed": "the seed of the training",
    "worst_case_p": "p of the exact McNemar test of worst_case against the best row with the same attacks and images, "
    "not corrected for their number",
    "worst_case_p_holm": "the same, corrected by Holm for the number of rows that are compared with that best one",
    "mce": "mean corruption error in percent, relative to mce_baseline (Hendrycks and Dietterich 2019)",
    "mce_baseline": "the model that mce is relative to",
    "mce_note": "why there is no mce",
    "norm": "of the threat model: linf, l2, l1 or l0; empty without attacks",
    "eps": "radius of the threat model, for images in [0, 1]",
    "eps_text": "the radius as it was written",
    "seed": "of the attacks",
    "dataset": "whose test images were used",
    "corruption_source": "official files (cifar10-c) or regenerated ones",
    "weights_hash": "SHA-256 of the names, shapes and values of the weights",
    "data_hash": "SHA-256 of the test images and labels",
    "samples": "which images of the data set were judged",
    "samples_hash": "hash of the indices of the n images",
    "definitions": "hash of the definitions of all attacks and corruptions of the row",
    "attack_definitions": "JSON: hash of the definition, by attack; only numbers with equal hashes are compared",
    "versions": "of the software",
    "device": "where it ran",
    "date": "of the latest run, ISO 8601",
    "command": "of the latest run",
    "forwards": "of the model, for all attacks of the row",
    "backwards": "of the model, for all attacks of the row",
    "seconds": "spent on all attacks of the row",
    "flag_details": "what was seen, for each flag",
    "sanity_n": "number of images behind the measurements that flags come from; 0 where they are missing",
    "standard_autoattack": "yes where AutoAttack ran in all stages as published, whatever its column is called",
    "source": "empty for what was measured here, else who has published the row",
    "venue": "where a published row's paper appeared",
    "paper": "title of a published row's paper",
    "url": "of a published row's paper",
    "over": "what varies: training seeds (nets of one recipe) or evaluation seeds (attacks on one net)",
    "group": "what the nets share of their name, else their method",
    "seeds": "how many there are",
    "seed_values": "the seeds",
    "models": "names of the nets, with '; ' between them",
    "against": "the group of the best mean worst case, which the differences are to",
}
_PATTERNS = (
    (
        r"(median|mean)_distance:(.+)",
        "{0} distance of the nearest images that {1} found for samples that are right unchanged; the median counts "
        "those without one as infinitely far",
    ),
    (
        r"(.+)_difference",
        "mean of {0} over the seeds of this group less that of the group in against, in points",
    ),
    (r"(.+)_difference_(low|high)", "{1} end of Welch's 95 % interval, over seeds, of the difference in {0}"),
    (r"(.+)_difference_p", "p of Welch's t test, over seeds, of the difference in {0}; not corrected"),
    (r"(.+)_mean", "mean of {0} over the seeds, in percent"),
    (r"(.+)_std", "standard deviation of {0} over the seeds (ddof 1), in points"),
    (r"(.+)_(min|max)", "{1} of {0} over the seeds, in percent"),
    (r"(.+)_(low|high)", "{1} end of the 95 % Wilson interval of {0}"),
    (r"corruptions_(\w+)", "mean accuracy in percent over the corruptions of the group {0}"),
    (r"corruption:(.+)", "mean accuracy in percent over the five severities of {0}"),
    (r"(transfer:.+)", "percent of the n images that adversarial images of another model leave right ({0})"),
    (r"(.+)", "percent of the n images that the attack {0} leaves right"),
)


def meaning_of(column: str) -> str:
    """What a column says, in one line."""
    if column in _MEANINGS:
        return _MEANINGS[column]
    pattern, text = next(each for each in _PATTERNS if re.fullmatch(each[0], column))
    match = re.fullmatch(pattern, column)
    assert match is not None
    return text.format(*match.groups())


def is_distance(column: str) -> bool:
    """Whether a column holds distances of a minimum-norm attack."""
    return column.startswith(DISTANCES)


def accuracy_columns(frame: pd.DataFrame) -> list[str]:
    """The columns of accuracies in percent, in order."""
    names = list(frame.columns)
    return names[names.index("clean") : names.index("n")]


def percent_columns(frame: pd.DataFrame) -> list[str]:
    """The same and their bounds."""
    accuracies = accuracy_columns(frame)
    return accuracies + [f"{name}_{side}" for name in accuracies for side in ("low", "high")]


def read_leaderboard(path: Path) -> pd.DataFrame:
    """Read a ``leaderboard.csv`` back with the types that ``build_leaderboard`` gives.

    Raises:
        AdvdpnpError: it cannot be read, or no leaderboard says what it says.
    """
    try:
        content = read_bounded(path, LARGEST_CSV)
        columns = content.partition(b"\n")[0].count(b",") + 1
        if columns > _MOST_COLUMNS or columns * content.count(b"\n") > _MOST_CELLS:
            raise ValueError(f"it has more cells than the {_MOST_CELLS:,} that a leaderboard may have")
        return _checked(with_types(_read(content)))
    except (OSError, ValueError, TypeError, KeyError, OverflowError) as error:
        raise AdvdpnpError(
            f"{path} is damaged ({describe_fault(error)}); make it again with advdpnp leaderboard"
        ) from error


def _read(content: bytes) -> pd.DataFrame:
    text = dict.fromkeys(("model", "flags", *_TEXT, *_SOMETIMES), str)
    unknown = {name: [""] for name in ("seed", "eps", "training_seed")}
    frame = pd.read_csv(io.BytesIO(content), dtype=text, keep_default_na=False, na_values=unknown)
    frame = frame.rename(columns=from_csv_cell)
    if not frame.columns.is_unique:
        raise ValueError("it has a column twice")
    if missing := next((name for name in ("model", "clean", "n", "flags", *_TEXT) if name not in frame), ""):
        raise ValueError(f"the column {missing} is missing")
    for name in [name for name in text if name in frame]:
        frame[name] = frame[name].map(from_csv_cell)
    return frame


def _checked(frame: pd.DataFrame) -> pd.DataFrame:
    """A leaderboard, if its names can be shown and its numbers can be what they are called.

    Raises:
        ValueError: they cannot.
    """
    percents = set(percent_columns(frame))
    for name in map(str, frame.columns):
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise ValueError(f"a column cannot be called {shown(name)}")
        values = frame[name]
        if not pd.api.types.is_numeric_dtype(values):
            wrong = [each for each in values if len(str(each)) > _LONGEST_CELL or not str(each).isprintable()]
            if wrong:
                raise ValueError(f"{name} cannot be {shown(wrong[0])}")
        elif ((values < 0) | (values > (100 if name in percents else math.inf))).any():
            raise ValueError(f"{name} has a number that it cannot have")
    return frame


def with_types(frame: pd.DataFrame) -> pd.DataFrame:
    """Give each column of a leaderboard its type, in place; returns the frame."""
    kinds: dict[str, Any] = dict.fromkeys(percent_columns(frame), "float64")
    kinds |= dict.fromkeys(("n", "parameters", "seed", "training_seed", "forwards", "backwards", "sanity_n"), "Int64")
    kinds |= {COUNT: "Int64"} if COUNT in frame else {}
    kinds |= dict.fromkeys([name for name in map(str, frame) if is_distance(name)], "float64")
    numbers = ("eps", "seconds", "min_separation", "training_seconds", "worst_case_p", "worst_case_p_holm")
    kinds |= dict.fromkeys(numbers, "float64")
    kinds |= dict.fromkeys([name for name in map(str, frame) if is_detail(name) or name == "mce"], "float64")
    for name in ("model", "flags", *_TEXT, *(name for name in _SOMETIMES if name in frame)):
        frame[name] = frame[name].fillna("").astype(str)
    for name, kind in kinds.items():
        frame[name] = pd.to_numeric(frame[name]).astype(kind)
    return frame


_KEY = ("model", "weights_hash", "dataset", "data_hash", "norm", "eps", "eps_text", "seed")
KEY_COLUMNS = {name: meaning_of(name) for name in _KEY}
"""The columns that say which row of ``leaderboard.csv`` a line belongs to, named as there, and what they say."""


def key_of(row: Row) -> dict[str, Any]:
    """The values of ``KEY_COLUMNS``."""
    values = (
        row.model.name, row.model.weights_hash, row.dataset, row.data, row.threat.norm, row.threat.eps,
        row.threat.eps_text, row.seed,
    )  # fmt: skip
    return dict(zip(_KEY, values, strict=True))


def row_key(line: pd.Series) -> tuple[str, ...]:
    """``Row.key`` of the row that a line of a leaderboard was made of."""
    seed = None if pd.isna(line["seed"]) else int(line["seed"])
    names = ("model", "weights_hash", "data_hash", "norm")
    return (*(line[name] for name in names), repr(float(line["eps"])), str(seed))
