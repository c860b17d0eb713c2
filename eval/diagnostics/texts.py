"""What each flag means and what to do about it: the words that tables, the page and the guide share."""

from typing import NamedTuple


class Meaning(NamedTuple):
    """What a flag says, and what to do about it."""

    explanation: str
    remedy: str


FLAGS = {
    "order": Meaning(
        "an attack that should be stronger left significantly more samples robust than a weaker one",
        "use the number of the weaker attack; look for masked gradients",
    ),
    "minimum-norm": Meaning(
        "a search for the nearest adversarial image left significantly more samples than PGD at the same radius: it "
        "does not reach them",
        "use the number of PGD; give the search more or larger steps, and do not report its distances",
    ),
    "small-eps": Meaning(
        "the attacks together broke next to nothing, at a radius that is small for this norm",
        "choose a radius of this norm: under L2 0.5 and under L1 12 are usual, 8/255 is one of Linf",
    ),
    "single-step": Meaning(
        "more than two thirds of the samples hold under FGSM, and PGD breaks more than two thirds of these",
        "training on single steps has overfitted to them: use PGD's number; train with a random start, or with PGD",
    ),
    "zero-gradient": Meaning(
        "more than 5 % of the attacked samples had a gradient that is exactly zero or not a number",
        "look for saturated softmax, rounding or detached layers; attack margins, and a differentiable stand-in (BPDA)",
    ),
    "ce-margin-gap": Meaning(
        "cross-entropy and margin attacks differ significantly, by more than 5 points: one loss is masked",
        "use the lower number; rescale the logits or attack margins",
    ),
    "black-box": Meaning(
        "a search without gradients broke significantly many samples that all searches with gradients had left",
        "gradients are masked: attack a differentiable stand-in, and run Square with more queries",
    ),
    "rising-loss": Meaning(
        "more than a quarter of what PGD gained on robust samples came in its last iterations: it was stopped early",
        "attack with more steps or larger ones",
    ),
    "large-eps": Meaning(
        "more than 5 % of the samples survive PGD at Linf 0.5, where every image can be made grey: the search fails",
        "look for masked gradients; the numbers at smaller radii measure the attack, not the model",
    ),
    "above-clean": Meaning(
        "the model does significantly better on attacked images than on clean ones or on noise: it reads the label "
        "from the attack",
        "train with a random start or more steps; use the strongest attack alone",
    ),
    "unverified": Meaning(
        "the model itself did not confirm what the search had found, on more than 5 % of the samples",
        "make the model's answers repeatable; of another library's attack, believe the verdicts, not its own count",
    ),
    "rejected": Meaning(
        "an attack broke nothing, and the verifier refused every success that it claimed: its numbers say nothing",
        "check that the attack stays within eps in this norm and in [0, 1], and that the model's answers repeat",
    ),
    "unmoved": Meaning(
        "an attack broke nothing, and the model answers its last images exactly as the clean ones: no image moved",
        "check the attack's step size, eps and gradients, and whether the model sees small changes of its input",
    ),
    "copy-differs": Meaning(
        "the faster copy of the model that attacks query had other gradients than the model at the first queries",
        "the search used the model itself, so the numbers hold; check what the model's forward makes depend on its "
        "input or its history",
    ),
    "randomised": Meaning(
        "the model gives different logits when it is called again: each verdict is the majority of 20 seeded draws",
        "switch the noise off, or attack its expectation (autoattack-rand)",
    ),
    "batch-dependent": Meaning(
        "the prediction for an image depends on the other images of its batch: verdicts hold for one batch",
        "evaluate with running statistics",
    ),
    "stateful": Meaning(
        "the model answers otherwise than a copy of it that was asked nothing before: it remembers what it has seen. "
        "What fools either counts",
        "remove what its forward stores",
    ),
    "train-mode": Meaning(
        "parts of the model stay in training mode after eval() is called",
        "fix their train() method",
    ),
    "dynamic": Meaning(
        "the model differentiates or optimises inside its forward: gradients through it may mislead",
        "attack it with an attack that knows the defence (Croce et al. 2022)",
    ),
    "softmax": Meaning(
        "the model's output is squeezed as a probability is (softmax, sigmoid): gradients vanish where it is sure",
        "return the logits",
    ),
    "quantised": Meaning(
        "the model does not see small changes of its input at all",
        "attack without the rounding, or through a differentiable stand-in (BPDA)",
    ),
    "normalisation": Meaning(
        "the model is significantly better on images that are normalised or denormalised once more",
        "make its normalisation, or --mean and --std, fit images in [0, 1]",
    ),
    "rounding": Meaning(
        "more than a quarter of the adversarial images break nothing any more once they are saved with 8 bits",
        "they need more precision than 8-bit images have: report this, or attack 8-bit images",
    ),
    "chance": Meaning(
        "the model is hardly better than chance on clean images: perhaps these are not the images that it expects",
        "try --input-range 0,255 or -1,1, or --mean and --std; check the order of the classes",
    ),
    "non-finite": Meaning(
        "the model's logits are NaN or infinite for some images, which count as misclassified",
        "find where its forward overflows; in half precision, evaluate it with --dtype float32 too",
    ),
    "fails": Meaning(
        "the model fails, or answers with NaN, on images that were made to measure it",
        "fix its forward and backward pass",
    ),
    "unmeasured": Meaning(
        "the model was not measured (--no-sanity, sanity=False), so flags that need measurements cannot be raised",
        "evaluate once more with measurements; stored verdicts are not repeated",
    ),
    "selected-samples": Meaning(
        "the images are not the first ones of the data set: they were selected, or others were lost",
        "evaluate all images, or the first ones (--limit)",
    ),
    "incomplete": Meaning(
        "attacks that the evaluation was asked for have no verdicts: it has not ended, or they were removed",
        "run the same evaluation again, which continues; until then, read worst_case as one over fewer attacks",
    ),
    "contradicted": Meaning(
        "several evaluations of one question judge images differently; an image counts as broken where any says so",
        "find out which one is right with advdpnp verify, and move the other out of the folder",
    ),
    "few-classes": Meaning(
        "fewer than 4 classes: the standard AutoAttack needs 4, a variant without its DLR loss ran instead",
        "compare it with rows of the same variant alone",
    ),
}
"""By code, in the order in which tables list them."""
