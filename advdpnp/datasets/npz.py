"""Data sets of arrays: one ``.npz`` file with x_train, y_train, x_test, y_test."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.files import describe_fault, open_arrays
from advdpnp.base.untrusted.text import shown
from advdpnp.datasets.base import DATASETS, Dataset, Request, Split

CHANNELS = (1, 3)


@DATASETS.register(
    "npz:{path}",
    description="arrays x_train, y_train, x_test, y_test (uint8 NHWC, NCHW, NHW; labels from 0), optional class_names",
)
def npz(request: Request, path: str) -> Dataset:
    """The arrays of the file at ``path``; test images stay in the order of the file.

    x_train may be missing if no training images are requested. Arrays of Python objects are rejected, because reading
    them would run code from the file.
    """
    request.refuse_image_size()
    file = Path(path).expanduser()
    wanted = {"train": request.train, "test": request.test or not request.train}
    parts = [part for part, asked in wanted.items() if asked]
    try:
        with open_arrays(file) as archive:
            arrays = _Arrays(file, archive)
            images = {part: arrays.images(f"x_{part}") for part in parts}
            labels = {part: arrays.labels(f"y_{part}", len(images[part])) for part in parts}
            known = [*labels.values()]
            if not request.train and "y_train" in archive:
                known.append(arrays.labels("y_train", None))  # gives the same number of classes as in training
            names = arrays.class_names(known)
    except FileNotFoundError:
        raise AdvdpnpError(f"there is no file {file}; give the path of an .npz file: npz:PATH") from None
    except (OSError, ValueError, KeyError) as error:
        raise _explain(file, error) from error

    if len(parts) == 2 and images["train"].shape[1:] != images["test"].shape[1:]:
        raise AdvdpnpError(
            f"{file}: training images are {_size(images['train'])}, test images {_size(images['test'])} "
            f"(channels x height x width); give both the same size"
        )
    splits = {part: Split(images[part], labels[part]) for part in parts}
    test = splits["test"] if "test" in splits else splits["train"].head(0)
    return request.assemble(splits.get("train"), test, names, augmentation="crop")


_ALIASES = {"x_train": "image", "y_train": "label"}  # names in published files of generated images


class _Arrays:
    """Checked access to the arrays of one open file."""

    def __init__(self, file: Path, archive: Mapping[str, np.ndarray]) -> None:
        self.file = file
        self.archive = archive

    def _error(self, sentence: str) -> AdvdpnpError:
        return AdvdpnpError(f"{self.file}: {sentence}")

    def _array(self, key: str) -> np.ndarray:
        if key not in self.archive and _ALIASES.get(key) in self.archive:
            key = _ALIASES[key]
        if key not in self.archive:
            held = shown(", ".join(sorted(self.archive)), 200)[1:-1] or "nothing"
            raise self._error(f"there is no array '{key}', only {held}; it needs x_train, y_train, x_test and y_test")
        array: np.ndarray = self.archive[key]
        return array

    def images(self, key: str) -> torch.Tensor:
        """The images ``key``: uint8, (n, c, h, w)."""
        array = self._array(key)
        if array.dtype.kind in "fc":
            raise AdvdpnpError(
                f"{self.file}: {key} has {array.dtype} values, not uint8 from 0 to 255; if they are in [0, 1] save "
                f"numpy.round({key} * 255).astype('uint8')"
            )
        if array.dtype == bool:
            raise self._error(f"{key} has bool values, not uint8 from 0 to 255; save {key}.astype('uint8') * 255")
        if array.dtype != np.uint8:
            raise self._error(
                f"{key} has {array.dtype} values, not uint8; if they are in 0..255 save {key}.astype('uint8')"
            )
        if array.ndim not in (3, 4) or not array.size:
            raise self._error(f"{key} has shape {array.shape}; save images as NHWC, NCHW or NHW (gray)")
        if array.ndim == 3:
            return torch.from_numpy(np.ascontiguousarray(array)).unsqueeze(1)
        first, last = array.shape[1] in CHANNELS, array.shape[3] in CHANNELS
        if first == last:
            what = "could be NCHW or NHWC" if first else "has neither 1 nor 3 channels"
            raise self._error(f"{key} of shape {array.shape} {what}; save it as NCHW with 1 or 3 channels")
        return torch.from_numpy(np.ascontiguousarray(array if first else array.transpose(0, 3, 1, 2)))

    def labels(self, key: str, images: int | None) -> torch.Tensor:
        """The labels ``key``: int64, (n,); ``images`` is the required number of labels, or None."""
        array = self._array(key)
        if array.ndim != 1:
            flat = array.ndim > 0 and array.size == len(array)
            hint = f"save {key}.ravel()" if flat else f"if it is one-hot save {key}.argmax(1)"
            raise self._error(f"{key} has shape {array.shape}, not one whole number per image; {hint}")
        if array.dtype.kind not in "iu":
            raise self._error(f"{key} has {array.dtype} values; save labels as whole numbers (int64) from 0")
        if images is not None and len(array) != images:
            raise self._error(
                f"x_{key[2:]} has {images} images, {key} has {len(array)} labels; save one label per image"
            )
        if len(array) and int(array.min()) < 0:
            raise self._error(f"{key} has the negative label {array.min()}; number the classes from 0")
        return torch.from_numpy(array.astype(np.int64))

    def class_names(self, labels: list[torch.Tensor]) -> list[str]:
        """The class names in the file, or the numbers of the classes without any."""
        present = int(max(part.max() for part in labels if len(part)))
        if "class_names" not in self.archive:
            if present >= sum(len(part) for part in labels):
                raise self._error(
                    f"a label is {present}, which exceeds the number of images; number the classes from 0"
                )
            return [str(label) for label in range(max(present + 1, 2))]
        array = self._array("class_names")
        if array.ndim != 1 or array.dtype.kind not in "US":
            raise self._error("class_names is not a list of strings; save numpy.array([...], dtype=str)")
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in array.tolist()]
        if present >= len(names):
            raise self._error(f"class_names has {len(names)} names, but a label is {present}; give one per class")
        return names


def _size(images: torch.Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))


def _explain(file: Path, error: Exception) -> AdvdpnpError:
    text = describe_fault(error)
    if isinstance(error, PermissionError | IsADirectoryError):
        return AdvdpnpError(f"cannot read {file}: {error.strerror}; give the path of an .npz file: npz:PATH")
    if "single array" in text:
        return AdvdpnpError(f"{file} is a single array; save x_train, y_train, x_test, y_test with numpy.savez")
    if "pickle" in text.lower():
        return AdvdpnpError(
            f"{file} contains Python objects, which are not read because that would run code; "
            f"save plain arrays of numbers with numpy.savez_compressed"
        )
    return AdvdpnpError(f"{file} is damaged or truncated ({text or type(error).__name__}); copy or create it again")
