"""Images and labels as callers have them: tensors, arrays, lists, batches of a DataLoader."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError

Images = Tensor | np.ndarray
Labels = Tensor | np.ndarray | Sequence[int]


def to_pair(x: Images | Iterable, y: Labels | None) -> tuple[Tensor, Tensor]:
    """Images and labels, checked by ``to_images`` and ``to_labels``.

    Args:
        x: images; or, without ``y``, batches of (images, labels), such as a DataLoader, which are joined in memory.
    """
    if y is not None:
        return to_images(x), to_labels(y)
    if isinstance(x, Tensor | np.ndarray | str) or not isinstance(x, Iterable):
        raise AdvdpnpError("labels are missing; give images and labels, or a DataLoader of both")
    pairs = []
    for batch in x:
        if not isinstance(batch, list | tuple) or len(batch) < 2:
            raise AdvdpnpError("the batches of a loader must be pairs of images and labels; wrap it to give these")
        pairs.append((to_images(batch[0]), to_labels(batch[1])))
    if not pairs:
        raise AdvdpnpError("there are no images to evaluate")
    if len({(images.dtype, images.shape[1:]) for images, _ in pairs}) > 1:
        raise AdvdpnpError("the batches of the loader differ in the shape or kind of their images; make them equal")
    return torch.cat([images for images, _ in pairs]), torch.cat([labels for _, labels in pairs])


def to_images(x: object) -> Tensor:
    """Images (n, c, h, w), uint8 as they are and others as float32, without a graph; rounding beyond [0, 1] is clipped.

    Raises:
        AdvdpnpError: they are something else.
    """
    if isinstance(x, np.ndarray) and x.dtype.kind not in "uif":
        raise AdvdpnpError(f"images must be numbers, uint8 or floats in [0, 1], not {x.dtype}")
    images = torch.from_numpy(np.ascontiguousarray(x)) if isinstance(x, np.ndarray) else x
    if isinstance(images, Iterable) and not isinstance(images, Tensor | Sequence):
        raise AdvdpnpError(f"a {type(x).__name__} has labels of its own; give it alone, to advdpnp.evaluate")
    if not isinstance(images, Tensor):
        raise AdvdpnpError(f"images must be a tensor or an array (n, c, h, w), not {type(x).__name__}")
    if images.dim() != 4 or not (images.dtype == torch.uint8 or images.is_floating_point()):
        raise AdvdpnpError(
            f"images must be (n, c, h, w), uint8 or floats in [0, 1]; "
            f"these are {images.dtype} of shape {tuple(images.shape)}"
        )
    refuse_meta(images=images)
    images = images.detach().clone() if images.is_inference() else images.detach()
    return images if images.dtype == torch.uint8 else _within_bounds(images.float())


_ROUNDING = 1e-6  # that resizing or normalising there and back leaves; more is no accident


def _within_bounds(images: Tensor) -> Tensor:
    """Images in [0, 1]; what exceeds it by no more than rounding does is clipped."""
    if not images.numel():
        return images
    low, high = float(images.min()), float(images.max())
    rounded = low >= -_ROUNDING and high <= 1 + _ROUNDING and (low < 0 or high > 1)
    return images.clamp(0, 1) if rounded else images


def to_labels(y: object, what: str = "labels") -> Tensor:
    """Labels, int64 (n,); ``what`` names them in messages.

    Raises:
        AdvdpnpError: they are something else.
    """
    try:
        labels = torch.as_tensor(y).detach()
    except (TypeError, ValueError, RuntimeError):
        raise AdvdpnpError(
            f"{what} must be integers, one per image, not {type(y).__name__} of something else"
        ) from None
    refuse_meta(**{what: labels})
    labels = labels.clone() if labels.is_inference() else labels
    if labels.is_floating_point() or labels.dtype == torch.bool or labels.dim() != 1:
        raise AdvdpnpError(
            f"{what} must be integers, one per image; these are {labels.dtype} of shape {tuple(labels.shape)}"
        )
    return labels.long()


def check_kinds(**values: tuple[object, type | tuple[type, ...]]) -> None:
    """Check that arguments are of the kinds that are given with them; bools count as none.

    Raises:
        AdvdpnpError: one is not.
    """
    for name, (value, kinds) in values.items():
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise AdvdpnpError(
                f"{name} cannot be {value!r}; give one number" + (" or text" if name in ("eps", "norm") else "")
            )


def refuse_meta(**tensors: Tensor) -> None:
    """Refuse tensors on the device "meta", which have a shape and no values; anything else is let through.

    Raises:
        AdvdpnpError: one is there.
    """
    for name, tensor in tensors.items():
        if getattr(tensor, "is_meta", False):
            raise AdvdpnpError(f"the {name} are on the device meta, which holds no values; load them")
