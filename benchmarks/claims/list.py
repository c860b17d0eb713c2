"""The claims, in the words of this project, and how each is judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.claims import ed_wta, measures
from benchmarks.claims.findings import Finding
from benchmarks.claims.stability import stable

SMALL = "small CNN on CIFAR-10"
TINY = "tiny ResNet on CIFAR-10"
WIDE = "ResNet-18 of width 16 on CIFAR-10"
RIVALS = ("cifar10-pgd-at-s0", "cifar10-trades-s0", "cifar10-mart-s0", "cifar10-fgsm-rs-s0")
PLAIN = ("cifar10-ce-s0", "cifar10-center-s0", "cifar10-dpp-s0")

Test = Callable[[Path], Sequence[Finding]]


@dataclass(frozen=True)
class Claim:
    """One claim of one abstract.

    Attributes:
        words: the claim in our words.
        command: makes the numbers, or shows them.
        test: what was found, from the folder of results.
    """

    words: str
    command: str
    test: Test


def untested(why: str) -> Test:
    """The test of a claim about which nothing was measured."""
    return lambda results: [Finding("not tested", why)]


def _robust(column: str, results: Path, *, competes: bool) -> list[Finding]:
    """Adv-DPNP against its rivals, in one column of the leaderboards."""
    small = measures.against_rivals(
        results / "cifar10", "cifar10-adv-dpnp-s0", RIVALS, column, SMALL, competes=competes
    )
    tiny = measures.over_seeds(
        results / "cifar10-tiny-resnet", "cifar10-tiny-resnet-adv-dpnp", "cifar10-tiny-resnet-pgd-at", column, TINY,
        competes=competes,
    )  # fmt: skip
    if column == "autoattack":  # not run on the larger nets
        return [small, tiny]
    ours, rival = (f"cifar10-resnet18-w16-{method}-s0" for method in ("adv-dpnp", "pgd-at"))
    wide = measures.against_rivals(
        results / "cifar10-resnet18-w16", ours, [rival], column, WIDE, competes=competes
    )  # fmt: skip
    return [small, tiny, wide]


def _compact(results: Path) -> list[Finding]:
    nets = {"cifar10": SMALL, "cifar10-resnet18-w16": WIDE}
    return [
        measures.compact_and_separate(results / folder / "geometry", "adv-dpnp", ("pgd-at",), what)
        for folder, what in nets.items()
    ]


def _plain(results: Path) -> list[Finding]:
    return [measures.against_rivals(results / "cifar10", "cifar10-dpnp-s0", PLAIN, "clean", SMALL)]


def _plain_compact(results: Path) -> list[Finding]:
    return [measures.compact_and_separate(results / "cifar10" / "geometry", "dpnp", ("ce", "dpp"), SMALL)]


def _regular(results: Path) -> list[Finding]:
    found = measures.geometry(results / "cifar10" / "geometry", "dpnp")["vectors"]
    angle, bound = found["min_separation"], found["simplex_bound"]
    return [
        Finding(
            "holds" if bound - angle < 5 else "does not hold",
            f"{SMALL}, 128 dimensions: MinSep {angle:.2f}°; the most there can be, that of the regular simplex, is "
            f"{bound:.2f}° (the paper: 91.83° in 512 dimensions, ResNet-18)",
        )
    ]


def _few_dimensions(results: Path) -> list[Finding]:
    value = partial(measures.study, results / "studies", "dimensions")
    three, ten, full = (value(f"dpnp, feature_dim {dim}", "clean") for dim in (3, 10, 512))
    rival, angle = value("dpp, feature_dim 3", "clean"), value("dpnp, feature_dim 3", "min_separation")
    other = value("dpp, feature_dim 3", "min_separation")
    words = (
        f"small CNN on digits, 300 held-out images, 3 seeds: {ten.mean():.1f} ± {ten.std():.1f} % in 10 dimensions and "
        f"{full.mean():.1f} ± {full.std():.1f} in 512, but {three.mean():.1f} ± {three.std():.1f} in 3, where dpp has "
        f"{rival.mean():.1f} ± {rival.std():.1f}; MinSep in 3 dimensions {angle.mean():.1f}° (dpp {other.mean():.1f}°, "
        "the most for ten points 66.15°)"
    )
    close = full.mean() - ten.mean() <= max(full.std(), ten.std()) + 1.0
    return [Finding("holds" if close else "does not hold", words)]


_COMPARE = "advdpnp compare cifar10-adv-dpnp-s0 cifar10-RIVAL-s0 results/cifar10 --columns {}"
_DETECTED = ["digits-ed-wta", "mnist"]
_NO_DATA = "the data are not at hand; `--dataset {}` loads them"

ADV_DPNP = [
    Claim(
        "better clean accuracy than other defences", _COMPARE.format("clean"),
        partial(_robust, "clean", competes=False),
    ),
    *(
        Claim(
            f"robustness under {name} that competes with other defences or beats them", _COMPARE.format(column),
            partial(_robust, column, competes=True),
        )
        for column, name in (("fgsm", "FGSM"), ("pgd-20", "PGD"), ("cw", "C&W"), ("autoattack", "AutoAttack"))
    ),
    Claim(
        "the highest mean accuracy on CIFAR-10-C", _COMPARE.format("corruptions"),
        partial(_robust, "corruptions", competes=False),
    ),
    Claim("compact and well separated classes in the latent space", "advdpnp geometry NET", _compact),
    Claim(
        "the same on CIFAR-100 and SVHN", "advdpnp train --dataset cifar100",
        untested(_NO_DATA.format("cifar100")),
    ),
    Claim(
        "updating the prototypes by clean images alone keeps them stable",
        "python -m benchmarks.claims.stability", stable,
    ),
]  # fmt: skip

DPNP = [
    Claim(
        "better accuracy than cross-entropy, centre loss and DPP",
        "advdpnp compare cifar10-dpnp-s0 cifar10-RIVAL-s0 results/cifar10 --columns clean", _plain,
    ),
    Claim("more compact and better separated classes", "advdpnp geometry NET", _plain_compact),
    Claim("nearly regular positions of the prototypes", "advdpnp geometry NET", _regular),
    Claim("competitive accuracy in far fewer dimensions", "advdpnp study dimensions", _few_dimensions),
    Claim(
        "better than the state of the art with smaller nets (CIFAR-100, Flowers-102)",
        "advdpnp train --dataset flowers102",
        untested(_NO_DATA.format("flowers102") + ", and nets of that size need a GPU"),
    ),
]  # fmt: skip

ED_WTA = [
    Claim(
        "layers of inner products and of distances say the same", "python -m benchmarks.claims", ed_wta.equivalence
    ),
    Claim("distances that are derived so have centres far from the data", "advdpnp geometry NET", ed_wta.far_centres),
    Claim("prototypes that one can interpret", "advdpnp geometry NET", ed_wta.interpretable),
    Claim("the negative prototype resembles the positive one", "advdpnp geometry NET", ed_wta.alike),
    Claim(
        "the switch of the update is essential to interpretable prototypes",
        "advdpnp train --recipe ed-wta --dataset npz:data/mnist-split.npz --set method.switch=false", ed_wta.switch,
    ),
    Claim(
        "prototypes detect outliers", "advdpnp detect NET --outliers cifar10,noise:uniform",
        partial(ed_wta.detects, ["outliers"], _DETECTED),
    ),
    Claim(
        "prototypes detect adversarial images", "advdpnp detect NET --attacks pgd-20",
        partial(ed_wta.detects, ["attack", "adaptive"], _DETECTED),
    ),
]  # fmt: skip

CLAIMS: dict[str, Sequence[Claim]] = {
    "Adv-DPNP (arXiv 2504.03782)": ADV_DPNP,
    "DPNP (arXiv 2501.02477)": DPNP,
    "+-ED-WTA (arXiv 2008.08750)": ED_WTA,
}
