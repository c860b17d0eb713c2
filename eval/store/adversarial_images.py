"""Adversarial images on disk: beside the verdicts of a unit, one Parquet file of all images that broke a sample.

    sample      int64
    difference  the image of bytes minus the clean image, modulo 256: c*h*w bytes, or null
    image       the image itself as little-endian float32: 4*c*h*w bytes, or null
    digest      the first 8 bytes of the SHA-256 of whichever is there

An image is rounded to bytes where that stays within the threat model and fools the model still, in float32 as always;
differences of few values are what Zstandard packs best. Else it is kept as the attack made it. Columns of fixed width
tell a reader how much memory a file wants before it reads any of it.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path
from advdpnp.datasets import to_float

SUFFIX = ".adversarials"
_ROW_GROUP = 2**25  # bytes
_DIGEST = 8

Clean = Callable[[np.ndarray], Tensor]
"""Sample indices (n,) to their clean images (n, c, h, w): uint8, or float32 in [0, 1]."""


def to_table(sample: np.ndarray, differences: Sequence[bytes | None], x_adv: Tensor) -> pa.Table:
    """Rows of the file.

    Args:
        sample: int64 (n,).
        differences: of images of bytes (uint8, modulo 256); None where the image is to be kept as it is.
        x_adv: float32 (n, c, h, w), n > 0.
    """
    exact = np.ascontiguousarray(x_adv.flatten(1).numpy(), dtype="<f4")
    images = [exact[i].tobytes() if each is None else None for i, each in enumerate(differences)]
    digests = [_digest(d or e or b"") for d, e in zip(differences, images, strict=True)]
    schema = _schema(exact.shape[1])
    columns = (sample, differences, images, digests)
    return pa.Table.from_arrays([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def write_adversarials(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of ``to_table`` or ``read_tables`` to one file, atomically; at least one, all of one width."""
    with atomic_path(path) as temporary, contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        waiting: list[pa.Table] = []
        for table in tables:
            if writer is None:
                stream = stack.enter_context(open(temporary, "wb"))
                # Statistics would hold whole images.
                writer = stack.enter_context(
                    pq.ParquetWriter(
                        stream, table.schema, compression="zstd", compression_level=9, use_dictionary=False,
                        write_statistics=False,
                    )
                )  # fmt: skip
            waiting.append(table)
            if sum(each.nbytes for each in waiting) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(waiting))
                waiting = []
        if writer is not None and waiting:
            writer.write_table(pa.concat_tables(waiting))


def read_samples(path: Path) -> np.ndarray:
    """Indices (int64) of the samples that a file has images of; empty where there is no file.

    Raises:
        AdvdpnpError: the file is damaged.
    """
    if not path.exists():
        return np.zeros(0, np.int64)
    with _open(path) as file:
        return np.asarray(file.read(columns=["sample"]).column("sample").to_numpy(), dtype=np.int64)


def read_tables(path: Path, rows: int = 512) -> Iterator[pa.Table]:
    """The file in pieces of at most ``rows`` rows. Raises as ``read_samples``."""
    with _open(path) as file:
        for batch in file.iter_batches(rows):
            yield pa.Table.from_batches([batch])


@dataclass(frozen=True)
class StoredImages:
    """Adversarial images as they are read back.

    Attributes:
        sample: int64 (n,).
        x_adv: float32 (n, c, h, w), exactly as they were judged; anything at all in a file that was tampered with.
        intact: whether each is what was written, bool (n,).
    """

    sample: np.ndarray
    x_adv: Tensor
    intact: np.ndarray


def read_adversarials(path: Path, clean: Clean, samples: int) -> Iterator[StoredImages]:
    """All images of a file in pieces.

    Args:
        clean: of the data set that they were made from.
        samples: how many it has.

    Raises:
        AdvdpnpError: the file is damaged, or its images are of another size or of samples that do not exist.
    """
    shape = clean(np.zeros(1, np.int64)).shape[1:]
    with _open(path) as file:
        expected, rows = _schema(shape.numel()), file.metadata.num_rows
        if not file.schema_arrow.equals(expected):
            raise AdvdpnpError(f"the images in {path} are not of the size of the data set's; choose another --dataset")
        if rows > samples:
            raise AdvdpnpError(f"{path} has {rows} images, the data set {samples}; it was tampered with")
    for table in read_tables(path):
        sample = table.column("sample").to_numpy()
        if table.column("sample").null_count or ((sample < 0) | (sample >= samples)).any():
            raise AdvdpnpError(f"{path} has images of samples that the data set has not; choose another --dataset")
        yield _decode(table, np.asarray(sample, dtype=np.int64), clean)


def _decode(table: pa.Table, sample: np.ndarray, clean: Clean) -> StoredImages:
    original = clean(sample)
    x_adv = torch.full(original.shape, torch.nan)  # of a row that has neither
    intact = np.zeros(len(sample), dtype=bool)
    rows = zip(*(table.column(name).to_pylist() for name in ("difference", "image", "digest")), strict=True)
    for place, (difference, image, digest) in enumerate(rows):
        stored = image if difference is None else difference
        intact[place] = stored is not None and _digest(stored) == digest and None in (difference, image)
        if difference is not None and original.dtype == torch.uint8:
            change = torch.frombuffer(bytearray(difference), dtype=torch.uint8).reshape(original[place].shape)
            x_adv[place] = to_float(original[place] + change)  # uint8: modulo 256
        elif image is not None:
            values = np.frombuffer(image, dtype="<f4").astype(np.float32)
            x_adv[place] = torch.from_numpy(values).reshape(original[place].shape)
    return StoredImages(sample, x_adv, intact)


def _schema(pixels: int) -> pa.Schema:
    return pa.schema(
        [
            ("sample", pa.int64()),
            ("difference", pa.binary(pixels)),
            ("image", pa.binary(4 * pixels)),
            ("digest", pa.binary(_DIGEST)),
        ]
    )


def _digest(stored: bytes) -> bytes:
    return hashlib.sha256(stored).digest()[:_DIGEST]


@contextlib.contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """The file, its columns checked; whatever goes wrong with it inside becomes one sentence."""
    try:
        with pq.ParquetFile(path) as file:
            names = _schema(1).names
            if file.schema_arrow.names != names or not _plausible(file.schema_arrow):
                raise AdvdpnpError(f"{path} holds no adversarial images; delete it and run the same evaluation again")
            yield file
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        raise AdvdpnpError(
            f"the images in {path} are damaged; delete the file and run the same evaluation again with "
            "--save-adversarials, which makes them again"
        ) from error


def _plausible(schema: pa.Schema) -> bool:
    """Whether the columns have the types of some size of image."""
    width = schema.field("difference").type
    return bool(pa.types.is_fixed_size_binary(width) and schema.equals(_schema(width.byte_width)))
