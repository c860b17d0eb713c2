"""Every score of every model on clean images, outliers, attacked images and adaptively attacked ones."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import advdpnp.eval.detection.library  # noqa: F401  (registers its scores)
from advdpnp.attacks.engine.executor import check_inputs, evaluation_mode, is_randomised
from advdpnp.attacks.engine.search import search
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.protocol import Attack, PackageAttack, RunOptions
from advdpnp.attacks.rows import Batch
from advdpnp.attacks.search_state import AttackResult
from advdpnp.base.devices import has_float64
from advdpnp.base.errors import AdvdpnpError, ModelError
from advdpnp.base.randomness import seed_of
from advdpnp.datasets.base import Dataset, Split, stratified
from advdpnp.eval.detection.adaptive import AdaptiveAttack, attack_both
from advdpnp.eval.detection.images import ImageSet, as_float
from advdpnp.eval.detection.measures import threshold_of
from advdpnp.eval.detection.outputs import OutputReader, Outputs
from advdpnp.eval.detection.scores import Detector, Fitting, NotAvailable, build_detector
from advdpnp.eval.run.components import Components
from advdpnp.eval.run.device import on_device
from advdpnp.models.loading import LoadedModel

FITTED_TO = 5000
"""Training images that scores are fitted to, at most; stratified by class."""
CLEAN, OUTLIERS, ATTACK, ADAPTIVE = "clean", "outliers", "attack", "adaptive"
ADAPTIVE_NAME = "adaptive"


@dataclass(frozen=True)
class DetectionConfig:
    """What is measured.

    Attributes:
        scores: names in ``SCORES``.
        outliers: images of other sources.
        attacks: by name, under one threat model.
        adaptive: the attack that knows the scores; None leaves it out.
        false_alarms: share of clean images that may be flagged.
        seed: of the attacks and of the choice of training images.
        device: where models run.
    """

    scores: tuple[str, ...]
    outliers: tuple[ImageSet, ...]
    attacks: tuple[tuple[str, Attack | AttackEnsemble | PackageAttack], ...]
    adaptive: AdaptiveAttack | None
    false_alarms: float
    seed: int
    device: torch.device

    @property
    def steps(self) -> int:
        """Steps of progress per model."""
        return 1 + len(self.outliers) + len(self.attacks) + (len(self.scores) if self.adaptive else 0)


@dataclass(frozen=True)
class ScoredImages:
    """Images of one kind under one score of one model.

    Attributes:
        kind: CLEAN, OUTLIERS, ATTACK or ADAPTIVE.
        name: "clean", the outliers' or the attack's.
        scores: float64 (n,).
        misclassified: bool (n,); all True for outliers, which have no right class.
        positive: the images to detect, bool (n,): all outliers; images that were classified correctly and no longer
            are; none of the clean ones.
    """

    kind: str
    name: str
    scores: np.ndarray
    misclassified: np.ndarray
    positive: np.ndarray


@dataclass(frozen=True)
class Detection:
    """One score of one model.

    Attributes:
        model, method: names.
        score: name.
        held_out: scores of clean images that are neither training nor test images, (n,).
        threshold: larger scores are flagged.
        clean: the test images.
        others: all else.
    """

    model: str
    method: str
    score: str
    held_out: np.ndarray
    threshold: float
    clean: ScoredImages
    others: tuple[ScoredImages, ...]

    def negatives(self, other: ScoredImages) -> np.ndarray:
        """Clean scores that ``other`` is told apart from: all for outliers, else those classified correctly."""
        return self.clean.scores if other.kind == OUTLIERS else self.clean.scores[~self.clean.misclassified]


@dataclass(frozen=True)
class Found:
    """All detections, and sentences about what was left out."""

    detections: list[Detection]
    notes: list[str]


def detect(
    models: Sequence[LoadedModel],
    data_of: Callable[[LoadedModel], Dataset],
    test: Split,
    config: DetectionConfig,
    progress: Callable[[], None] = lambda: None,
    found: Found | None = None,
) -> Found:
    """Measure all models.

    Args:
        models: the models.
        data_of: gives the data set of a model, with the training images that it saw and those held out from it.
        test: the clean test images.
        config: what is measured.
        progress: called ``config.steps`` times per model.
        found: gets each detection as soon as it is finished, for a caller that keeps them if the run ends early.

    Raises:
        AdvdpnpError: a model fails or is randomised, a score is NaN, nothing is held out, or no score is left.
    """
    if not has_float64(config.device):
        raise AdvdpnpError(f"scores are computed in float64, which {config.device.type} has not; use --device cpu")
    found = Found([], []) if found is None else found
    for loaded in models:
        try:
            with on_device(loaded.model, config.device), evaluation_mode(loaded.model):
                for each in _ModelRun(loaded, data_of(loaded), test, config, progress).detections(found.notes):
                    found.detections.append(each)
        except ModelError as error:
            raise AdvdpnpError(f"{loaded.name}: {error}") from error
    if not found.detections:
        raise AdvdpnpError(f"no score is left ({'; '.join(found.notes)}); choose other --scores")
    return found


class _ModelRun:
    """One model. Outputs are read once and shared by all scores; only the adaptive attack runs for each of them."""

    def __init__(
        self, loaded: LoadedModel, data: Dataset, test: Split, config: DetectionConfig, progress: Callable[[], None]
    ) -> None:
        self.loaded, self.data, self.config, self.progress = loaded, data, config, progress
        self.size = Components().first_batch_size(config.device)
        x, y = as_float(test.images).to(config.device), test.labels.to(config.device)
        check_inputs(x, y)
        self.batch = Batch(x, y, torch.arange(len(y), device=config.device))
        self.reader = OutputReader(loaded.model, data.classes, self.size, config.device)
        self.reader.read(x[:2])  # a model that fails should say so first
        if is_randomised(loaded.model, x[:2]):
            raise AdvdpnpError(f"{loaded.name} is randomised, so its scores change from call to call; fix its noise")

    def detections(self, notes: list[str]) -> Iterator[Detection]:
        """Every score that the model allows; ``notes`` gets a sentence about the others."""
        detectors, held_out = self._fit(notes)
        self.progress()
        clean = self.reader.read(self.batch.x)
        outliers = [(each.name, self._outlier_outputs(each)) for each in self.config.outliers]
        attacked = [(name, self._attacked(attack)) for name, attack in self.config.attacks]
        outputs = [(name, self.reader.read(x)) for name, x in attacked]
        right = clean.prediction == self.batch.y
        for name, detector in detectors.items():
            scored = [self._scored(OUTLIERS, each, self._values(name, detector, of)) for each, of in outliers]
            for each, of in outputs:
                wrong = of.prediction != self.batch.y
                scored.append(self._scored(ATTACK, each, self._values(name, detector, of), wrong, wrong & right))
            if self.config.adaptive is not None:
                chosen = attack_both(self.reader, detector, self.batch, [x for _, x in attacked], self.config.adaptive)
                wrong = chosen.misclassified
                values = self._checked(name, chosen.scores)
                scored.append(self._scored(ADAPTIVE, ADAPTIVE_NAME, values, wrong, wrong & right))
                self.progress()
            known = self._values(name, detector, held_out)
            yield Detection(
                model=self.loaded.name,
                method=self.loaded.method,
                score=name,
                held_out=known,
                threshold=threshold_of(known, self.config.false_alarms),
                clean=self._scored(CLEAN, CLEAN, self._values(name, detector, clean), ~right, right & False),
                others=tuple(scored),
            )
        if self.config.adaptive is not None:
            for _ in range(len(self.config.scores) - len(detectors)):
                self.progress()

    def _fit(self, notes: list[str]) -> tuple[dict[str, Detector], Outputs]:
        """The detectors by name, and outputs of the held-out images."""
        if not len(self.data.train) or not len(self.data.validation):
            raise AdvdpnpError(
                f"{self.data.name} has no training images to fit scores to and to hold out; give a data set with some"
            )
        chosen, _ = stratified(
            self.data.train.labels, min(FITTED_TO, len(self.data.train)), seed_of("detection", self.config.seed)
        )
        train = self.data.train.pick(chosen.sort().values)
        labels = train.labels.to(self.config.device)
        fitting = Fitting(self.reader.head, self.reader.read(as_float(train.images)), labels)
        detectors, missing = {}, dict[str, list[str]]()
        for name in self.config.scores:
            try:
                detectors[name] = build_detector(name, fitting)
            except NotAvailable as error:
                missing.setdefault(str(error), []).append(name)
        notes += [f"{self.loaded.name}: {', '.join(names)} left out: {why}" for why, names in missing.items()]
        return detectors, self.reader.read(as_float(self.data.validation.images))

    def _outlier_outputs(self, outliers: ImageSet) -> Outputs:
        outputs = self.reader.read(as_float(outliers.images))
        self.progress()
        return outputs

    def _attacked(self, attack: Attack | AttackEnsemble | PackageAttack) -> Tensor:
        """What the attack returns: verified adversarial images, and the clean image where it found none."""
        model, config, x = self.loaded.model, self.config, self.batch.x
        if isinstance(attack, Attack | AttackEnsemble):
            results = list(
                search(
                    model, attack, x, self.batch.y, self.batch.sample, seed=config.seed, static_batch_size=self.size,
                    device=config.device,
                )
            )  # fmt: skip
        else:
            made = attack.run(model, self.batch, RunOptions(config.seed, self.size, config.device))
            results = [each for each in made if isinstance(each, AttackResult)]
        result = AttackResult.concatenate(results).to(config.device)
        images = x.clone()
        images[result.sample[result.success]] = result.x_adv[result.success].to(x.dtype)
        self.progress()
        return images

    def _values(self, name: str, detector: Detector, outputs: Outputs) -> np.ndarray:
        with torch.no_grad():
            return self._checked(name, detector.score(outputs))

    def _checked(self, name: str, scores: Tensor) -> np.ndarray:
        values: np.ndarray = scores.detach().double().cpu().numpy()
        if np.isnan(values).any():
            raise AdvdpnpError(
                f"the score '{name}' is NaN for some images of {self.loaded.name}; leave it out of --scores"
            )
        return values

    @staticmethod
    def _scored(
        kind: str, name: str, scores: np.ndarray, misclassified: Tensor | None = None, positive: Tensor | None = None
    ) -> ScoredImages:
        every = np.ones(len(scores), bool)
        wrong, found = (every if each is None else each.cpu().numpy() for each in (misclassified, positive))
        return ScoredImages(kind, name, scores, wrong, found)
