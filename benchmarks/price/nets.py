"""The nets: of the stored evaluations, those that AutoAttack leaves some robust accuracy; of three seeds, the first."""

from dataclasses import dataclass
from pathlib import Path

from advdpnp.datasets import Dataset
from advdpnp.models.loading import LoadedModel, load_model

RESULTS = Path("results")


@dataclass(frozen=True)
class Net:
    """One net.

    Attributes:
        name: of the model in the results.
        results: folder of its stored evaluations, below ``results/``.
        eps: radius of these, under Linf.
        factory: function of ``benchmarks.public_models`` that makes it; "" for a checkpoint of this project.
        file: its weights, if it is public.
    """

    name: str
    results: str
    eps: str = "8/255"
    factory: str = ""
    file: str = ""

    def load(self, data: Dataset, public: Path) -> LoadedModel:
        """The net with its weights; ``public`` is the folder of the public ones."""
        if not self.factory:
            return load_model(RESULTS / "checkpoints" / f"{self.name}.safetensors")
        return load_model(f"benchmarks.public_models:{self.factory}", weights=public / self.file, dataset=data)


NETS = (
    Net("cifar_cnn_a_adv", "cifar10-public", "2/255", "cifar_cnn_a", "cifar_cnn_a_adv.model"),
    Net("resnet2b", "cifar10-public", "2/255", "resnet2b", "resnet2b.pth"),
    Net("cifar_wide", "cifar10-public", "2/255", "cifar_wide", "cifar_wide.pth"),
    *(Net(f"cifar10-{method}-s0", "cifar10") for method in ("adv-dpnp", "pgd-at", "trades", "mart", "fgsm-rs")),
    *(Net(f"cifar10-tiny-resnet-{method}-s0", "cifar10-tiny-resnet") for method in ("adv-dpnp", "pgd-at")),
)
