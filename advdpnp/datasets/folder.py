"""Data sets of image files, with one folder per class."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import seed_of
from advdpnp.datasets.base import DATASETS, Dataset, Request, Split, shuffled, stratified

SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".tif", ".tiff", ".webp"))
LARGEST_DEFAULT = 224
GRAY_MODES = frozenset(("1", "L", "LA"))
DEEP_MODES = frozenset(("I", "F"))  # also I;16 and its byte orders; PIL would clip them to white
TEST_SHARE = 5  # one image in five
_ORIENTATION = 0x0112  # a tag of EXIF
_logger = logging.getLogger("advdpnp")
NAMED = 3  # a message names at most this many bad files
UNREADABLE = "cannot be read as images; remove or replace them"

Labelled = list[tuple[Path, int]]
Item = TypeVar("Item")
Result = TypeVar("Result")


@DATASETS.register(
    "folder:{path}",
    description="image files: PATH/train/<class>/* and PATH/test/<class>/*, or PATH/<class>/* (a fifth for testing)",
)
def folder(request: Request, path: str) -> Dataset:
    """The image files under ``path``; gray if all of them are, otherwise RGB. The sorted folder names are the classes.

    Without train/ and test/, a fifth of each class is the test split, which depends only on a fixed seed and the file
    names. Test images are shuffled once, so that the first n mix the classes. All images get the same size: the
    requested one, or the most common size, limited to 224 pixels in height and width. An image of another size is
    resized (bilinear) to cover this size, then cropped at its centre.
    """
    root = Path(path).expanduser()
    train_files, test_files, names = _find(root)
    # All headers are read even if only test images are: size and channels must not depend on the request.
    sizes, gray = _survey([file for file, _ in (*train_files, *test_files)])
    size = request.image_size or _common_size(sizes[: len(train_files)])
    test = _read(test_files, size, gray)
    train = _read(train_files, size, gray) if request.train else None
    return request.assemble(train, test, names, augmentation="crop")


def _find(root: Path) -> tuple[Labelled, Labelled, list[str]]:
    """Training files, test files (shuffled), class names."""
    if not root.is_dir():
        raise AdvdpnpError(f"there is no folder {root}; give one that contains one folder per class: folder:PATH")
    inside = {child.name for child in _folders(root)}
    found = {part: [name for name in inside if name.lower() in spellings] for part, spellings in _SPLITS.items()}
    if all(len(names) == 1 for names in found.values()):
        training, testing = (root / found[part][0] for part in ("train", "test"))
        names = _classes(training)
        unknown = sorted(set(_classes(testing)) - set(names))
        if unknown:
            raise AdvdpnpError(
                f"{root}: test has the class '{unknown[0]}' but train does not; give both the same class folders"
            )
        train, test = _files(training, names), _files(testing, names, may_miss=True)
        if not test:
            raise AdvdpnpError(f"there is no image in {testing}; put image files into its class folders")
    elif found["train"]:
        held = ", ".join(sorted(inside))
        raise AdvdpnpError(f"{root} contains {held}, but no test; name the folder of test images 'test'")
    else:
        names = _classes(root)
        files = _files(root, names)
        labels = torch.tensor([label for _, label in files])
        held_out, kept = stratified(labels, max(1, len(files) // TEST_SHARE), seed_of("folder", "test"))
        return [files[i] for i in kept.tolist()], [files[i] for i in held_out.tolist()], names
    return train, [test[i] for i in shuffled(len(test), seed_of("folder", "test")).tolist()], names


_SPLITS = {"train": ("train", "training"), "test": ("test", "testing")}  # in any capitals


def _folders(root: Path) -> list[Path]:
    return sorted(child for child in root.iterdir() if child.is_dir() and not child.name.startswith("."))


def _classes(root: Path) -> list[str]:
    names = [child.name for child in _folders(root)]
    if len(names) < 2:
        raise AdvdpnpError(
            f"class folders in {root}: {', '.join(names) or 'none'}; make one folder per class, at least 2"
        )
    return names


def _files(root: Path, names: Sequence[str], may_miss: bool = False) -> Labelled:
    files: Labelled = []
    for label, name in enumerate(names):
        found = [(file, label) for file in sorted((root / name).rglob("*")) if _is_image(file, root / name)]
        if not found and not may_miss:
            raise AdvdpnpError(f"there is no image in {root / name}; put image files into it or remove the folder")
        files += found
    return files


def _is_image(file: Path, folder: Path) -> bool:
    """Whether it is to be read: hidden files, and all in hidden folders such as ``.ipynb_checkpoints``, are not."""
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.suffix.lower() in SUFFIXES and not hidden and file.is_file()


def _survey(files: Sequence[Path]) -> tuple[list[tuple[int, int]], bool]:
    """Height and width of each image, read from the file header, and whether all images are gray."""

    def header(file: Path) -> tuple[tuple[int, int], str, bool] | None:
        try:
            with Image.open(file) as image:
                turned = image.getexif().get(_ORIENTATION, 1) != 1
                return (image.height, image.width), image.mode, turned
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None

    headers = _in_threads(header, files)
    _refuse(UNREADABLE, (f for f, h in zip(files, headers, strict=True) if h is None))
    known = [h for h in headers if h is not None]
    if turned := sum(each for _, _, each in known):
        _logger.warning(
            f"{turned:,} of {len(known):,} images ask to be turned when they are shown (EXIF); they are read as they "
            "are stored, as torchvision reads them"
        )
    deep = (f for f, (_, mode, _) in zip(files, known, strict=True) if mode in DEEP_MODES or mode.startswith("I;"))
    _refuse("have more than 8 bits per channel; convert them to 8 bits", deep)
    return [size for size, _, _ in known], all(mode in GRAY_MODES for _, mode, _ in known)


def _common_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    counts = Counter(sizes)
    height, width = min(counts, key=lambda size: (-counts[size], size))
    return min(height, LARGEST_DEFAULT), min(width, LARGEST_DEFAULT)


def _read(files: Labelled, size: tuple[int, int], gray: bool) -> Split:
    height, width = size
    mode = "L" if gray else "RGB"

    def pixels(item: tuple[Path, int]) -> np.ndarray | None:
        try:
            with Image.open(item[0]) as image:
                whole = image.convert(mode)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        if whole.size != (width, height):
            whole = ImageOps.fit(whole, (width, height), Image.Resampling.BILINEAR)
        return np.asarray(whole)

    decoded = _in_threads(pixels, files)
    _refuse(UNREADABLE, (f for (f, _), d in zip(files, decoded, strict=True) if d is None))
    stack = torch.from_numpy(np.stack([d for d in decoded if d is not None])).reshape(len(files), height, width, -1)
    return Split(stack.permute(0, 3, 1, 2).contiguous(), torch.tensor([label for _, label in files]))


def _in_threads(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Apply ``work`` to all items in threads, which run in parallel because decoding releases the GIL."""
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        return list(pool.map(work, items))


def _refuse(what: str, files: Iterable[Path]) -> None:
    bad = list(files)
    if bad:
        more = f" and {len(bad) - NAMED:,} more" if len(bad) > NAMED else ""
        raise AdvdpnpError(f"{', '.join(map(str, bad[:NAMED]))}{more}: these files {what}")
