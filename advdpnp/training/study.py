"""Studies: compare variants of a recipe, each trained with several seeds, on held-out training images.

A study selects values of a recipe, so it never uses test images. It evaluates on images that are held out of the
training images and differ from the validation images that select the epoch.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advdpnp.attacks import ThreatModel, resolve_attacks
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import seed_of
from advdpnp.datasets.base import Dataset, load_dataset, stratified
from advdpnp.models import MODELS
from advdpnp.training.methods.base import build_method
from advdpnp.training.recipe import Recipe, explain, named_file, packaged_files, read_yaml, resolve_recipe

DEFAULT = "default"
MEASURES = ("clean", "worst_case", "rare_clean", "rare_worst_case", "min_separation")  # for figures
_RECIPE = "recipe"  # this factor varies the name of the recipe instead of a value in it


Values = Annotated[list[Any], Field(min_length=1, max_length=1000)]
_MOST_VARIANTS = 1_000


class Rare(BaseModel):
    """Classes that keep only a share of their training images."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    classes: list[int] = Field(min_length=1, max_length=100_000)
    share: float = Field(gt=0, le=1)


class Curve(BaseModel):
    """A figure of a study: one line per value of ``lines`` over the values of ``x``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    x: str
    lines: str
    y: list[str] = Field(min_length=1)


class Study(BaseModel):
    """Which values of a recipe vary, and how the models are evaluated.

    Attributes:
        description: the question of the study.
        dataset: canonical name of a data set.
        recipe: the recipe that the variants change.
        settings: "key=value" settings of all variants.
        vary: for each factor, the values to try; the other factors keep the recipe's values.
        grid: blocks of factors; each block tries all combinations of the values of its factors.
        seeds: training seeds of every variant.
        judged: number of training images held out for the evaluation.
        attacks: attacks of the evaluation, in the format of ``advdpnp eval --attacks``.
        attacked: number of held-out images that are evaluated; None for all.
        rare: makes the training images unbalanced; accuracy on the rare classes is reported separately.
        curve: plots a figure over a numeric factor; without it, a figure compares every variant with the default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    description: str
    dataset: str = "digits"
    recipe: str = "adv-dpnp"
    settings: list[str] = []
    vary: dict[str, Values] = {}
    grid: list[dict[str, Values]] = []
    seeds: list[Annotated[int, Field(ge=0, lt=2**63)]] = Field(default=[0, 1, 2], min_length=1, max_length=1000)
    judged: int = Field(default=300, ge=10, le=10**9)
    attacks: str = "pgd-40,cw"
    attacked: int | None = Field(default=None, ge=1)
    rare: Rare | None = None
    curve: Curve | None = None


@dataclass(frozen=True)
class Variant:
    """One variant of a study's recipe.

    Attributes:
        factors: the changed values by their dotted path in the recipe; "recipe" stands for the recipe's name.
    """

    factors: dict[str, Any]

    @property
    def label(self) -> str:
        """ "radius 40, inner_objective margin"."""
        words = [f"{key.rpartition('.')[2]} {_text(value)}" for key, value in self.factors.items() if key != _RECIPE]
        return ", ".join([*([str(self.factors[_RECIPE])] if _RECIPE in self.factors else []), *words]) or DEFAULT

    def resolve(self, study: Study, seed: int) -> Recipe:
        """The recipe of this variant.

        Raises:
            AdvdpnpError: the recipe is invalid.
        """
        overrides = {key: value for key, value in self.factors.items() if key != _RECIPE and value is not None}
        cleared = [f"{key}=null" for key, value in self.factors.items() if value is None]
        recipe = str(self.factors.get(_RECIPE, study.recipe))
        return resolve_recipe(recipe, study.dataset, {**overrides, "seed": seed}, [*study.settings, *cleared])


def _text(value: Any) -> str:
    return "null" if value is None else str(value)


def study_files() -> dict[str, Path]:
    """The studies of the package, by name."""
    return packaged_files("advdpnp.training.studies")


def read_study(study: str) -> Study:
    """Read a study of the package, or the YAML file at a path.

    Raises:
        AdvdpnpError: the study does not exist or is invalid.
    """
    try:
        read = Study(**read_yaml(named_file("study", study, study_files())))
    except ValidationError as error:
        raise AdvdpnpError(f"the study '{study}' is invalid: {explain(error)}") from error
    _check(read)
    return read


def _check(study: Study) -> None:
    """Check all variants first, so that a mistake in the last one is reported before any training.

    Raises:
        AdvdpnpError: a variant or the curve is invalid.
    """
    count = sum(math.prod(map(len, block.values())) for block in study.grid)
    if count > _MOST_VARIANTS:
        raise AdvdpnpError(f"the grid of the study has {count:,} variants; keep it to {_MOST_VARIANTS:,}")
    found = variants(study)
    factors = factor_names(found)
    fixed = {"seed": "list it under seeds", "validation": "set it under settings", "method.name": "vary the recipe"}
    for factor in factors:
        if factor in fixed:
            raise AdvdpnpError(f"a study cannot vary '{factor}'; {fixed[factor]}")
    labels = [variant.label for variant in found]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice or len(set(study.seeds)) < len(study.seeds):
        what = f"two variants are both called '{twice[0]}'" if twice else "a seed is listed twice"
        raise AdvdpnpError(f"{what}; remove one of them")
    for variant in found:
        recipe = variant.resolve(study, 0)
        build_method(recipe.method)
        MODELS.find(recipe.model.architecture)
        threat = ThreatModel.parse(recipe.attack.norm, recipe.attack.eps)
        resolve_attacks(study.attacks, threat, classes=10)
    if study.curve is not None:
        missing = [name for name in (study.curve.x, study.curve.lines) if name not in factors]
        missing += [name for name in study.curve.y if name not in MEASURES]
        if missing:
            raise AdvdpnpError(f"the curve of the study names '{missing[0]}', which it neither varies nor measures")


def variants(study: Study) -> list[Variant]:
    """All distinct variants of a study; with ``vary``, the unchanged recipe comes first."""
    found = [Variant({})] if study.vary or not study.grid else []
    found += [Variant({key: value}) for key, values in study.vary.items() for value in values]
    for block in study.grid:
        found += [Variant(dict(zip(block, values, strict=True))) for values in itertools.product(*block.values())]
    return [variant for index, variant in enumerate(found) if variant not in found[:index]]


def runs(study: Study, shard: tuple[int, int] = (0, 1)) -> Iterator[tuple[Variant, int]]:
    """Pairs of variant and seed, ordered by seed, so that an unfinished study already compares all variants."""
    every = [(variant, seed) for seed in study.seeds for variant in variants(study)]
    yield from every[shard[0] :: shard[1]]


def study_data(study: Study, data_root: Path | None = None) -> tuple[Dataset, Dataset]:
    """The data set for training, without test images, and one whose test images are the held-out images.

    Raises:
        AdvdpnpError: no such data set, too few training images, or a rare class that does not exist.
    """
    whole = load_dataset(study.dataset, data_root=data_root, validation=0)
    unknown = [label for label in (study.rare.classes if study.rare else []) if not 0 <= label < whole.classes]
    if unknown:
        raise AdvdpnpError(f"the rare class {unknown[0]} is not one of the {whole.classes} classes of {study.dataset}")
    if study.judged >= len(whole.train):
        raise AdvdpnpError(f"{study.dataset} has {len(whole.train)} training images; set judged to fewer than that")
    held_out, kept = stratified(whole.train.labels, study.judged, seed_of("study"))
    count = resolve_recipe(study.recipe, study.dataset, None, study.settings).validation
    validating, training = stratified(whole.train.labels[kept], min(count, len(kept) // 5), seed_of("study validation"))
    train, validation = whole.train.pick(kept[training]), whole.train.pick(kept[validating])
    if study.rare is not None:
        train = train.pick(_thinned(train.labels, study.rare))
    none = whole.test.head(0)
    judged = whole.train.pick(held_out).head(study.attacked)
    return replace(whole, train=train, validation=validation, test=none), replace(whole, test=judged)


def _thinned(labels: torch.Tensor, rare: Rare) -> torch.Tensor:
    """Indices of the images to keep; every rare class keeps its share, and at least one image."""
    keep = torch.ones(len(labels), dtype=torch.bool)
    for label in rare.classes:
        members = torch.nonzero(labels == label).flatten()
        keep[members[max(1, round(rare.share * len(members))) :]] = False
    return torch.nonzero(keep).flatten()


def parse_shard(text: str) -> tuple[int, int]:
    """Parse a share of the runs: "0/2" gives (0, 2).

    Raises:
        AdvdpnpError: the text is not such a share.
    """
    index, _, count = text.partition("/")
    if not (text.isascii() and index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise AdvdpnpError(f"'{text}' is not a share of the runs; write 0/2 for the first half, 1/2 for the second")
    return int(index), int(count)


def factor_names(found: Sequence[Variant]) -> list[str]:
    """All factors that any variant changes, in order of appearance."""
    return list(dict.fromkeys(key for variant in found for key in variant.factors))
