"""Data sets as uint8 tensors with fixed splits. Importing the package registers all of them.

Code here must not import models, attacks, training or evaluation.
"""

from advdpnp.datasets import digits as _digits  # noqa: F401
from advdpnp.datasets import folder as _folder  # noqa: F401
from advdpnp.datasets import npz as _npz  # noqa: F401
from advdpnp.datasets import torchvision_sets as _torchvision_sets  # noqa: F401
from advdpnp.datasets.base import DATASETS, Dataset, Split, load_dataset, to_float

__all__ = ["DATASETS", "Dataset", "Split", "load_dataset", "to_float"]
