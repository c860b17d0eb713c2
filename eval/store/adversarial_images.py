"""Adversarial images on disk, one row per image.

    sample      int64
    difference  the image of bytes minus the clean image, modulo 256: c*h*w bytes, or null
    image       the image itself as little-endian float32: 4*c*h*w bytes, or null
    digest      the first 8 bytes of the SHA-256 of whichever is there
    clean       the clean image as little-endian float32, of the first samples of an evaluation alone; else null

The first ``EXAMPLES`` samples of every evaluation have their image stored, misclassified or not, for figures; all
misclassified samples have one where that was asked for (``--save-adversarials``). Those are rounded to bytes where the
result stays within the threat model and is still misclassified: differences of few values compress best.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path
from advdpnp.base.untrusted.files import check_file
from advdpnp.base.untrusted.parquet import check_pages
from advdpnp.datasets import to_float
from advdpnp.eval.store.schema import MOST_ROWS

SUFFIX = ".adversarials"
"""Of the file of images of a part."""

EXAMPLES = 8
"""How many samples, the first ones of an evaluation, always have their image stored."""

IMAGES = pa.schema(
    [
        ("sample", pa.int64()),
        ("difference", pa.binary()),
        ("image", pa.binary()),
        ("digest", pa.binary()),
        ("clean", pa.binary()),
    ]
)

_ROW_GROUP = 2**25  # bytes
LARGEST_IMAGES = 2**40
"""Bytes of a file of images."""
_LARGEST_GROUP, _LARGEST_COLUMN, _LARGEST_BATCH = 2**31, 2**28, 2**30
# Bytes of a row group and of one of its columns once unpacked, and of the rows in memory.
_DIGEST = 8
_ROWS = 512  # that are in memory at once
_SORTED = 4 * _ROWS  # that are sorted at once; for more, the files are read again

Clean = Callable[[np.ndarray], Tensor]
"""Sample indices (n,) to their clean images (n, c, h, w): uint8, or float32 in [0, 1]."""


def to_table(
    sample: np.ndarray, differences: Sequence[bytes | None], x_adv: Tensor, x: Tensor | None = None
) -> pa.Table:
    """Rows of the file.

    Args:
        sample: int64 (n,).
        differences: of images of bytes (uint8, modulo 256); None where the image is to be kept as it is.
        x_adv: float32 (n, c, h, w), n > 0.
        x: the clean images, of the same shape, where they are to be stored too.
    """
    exact, clean = _bytes_of(x_adv), [None] * len(sample) if x is None else _bytes_of(x)
    images = [each if difference is None else None for each, difference in zip(exact, differences, strict=True)]
    digests = [_digest(d or e or b"") for d, e in zip(differences, images, strict=True)]
    columns = (sample, differences, images, digests, clean)
    return pa.table(dict(zip(IMAGES.names, columns, strict=True)), schema=IMAGES)


def write_adversarials(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables of ``to_table`` or ``read_tables`` to one file, atomically; without any it is empty."""
    with atomic_path(path) as temporary, contextlib.ExitStack() as stack:
        writer: pq.ParquetWriter | None = None
        for table in _row_groups(tables):
            if writer is None:
                dictionaries = [name for name in ("unit", "clean") if name in table.column_names]
                writer = stack.enter_context(
                    pq.ParquetWriter(
                        stack.enter_context(open(temporary, "wb")), table.schema, compression="zstd",
                        compression_level=9, use_dictionary=dictionaries, write_statistics=False,
                        write_page_checksum=True,
                    )
                )  # fmt: skip
            writer.write_table(table, max(1, 2 * _ROW_GROUP * len(table) // max(1, table.nbytes)))


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    waiting: list[pa.Table] = []
    for table in tables:
        waiting.append(table)
        if sum(each.nbytes for each in waiting) >= _ROW_GROUP:
            yield _one_table(waiting)
            waiting = []
    if waiting:
        yield _one_table(waiting)


def _one_table(parts: Sequence[pa.Table]) -> pa.Table:
    return pa.concat_tables(parts).unify_dictionaries().combine_chunks()  # pages would end where chunks do


def read_samples(path: Path) -> np.ndarray:
    """Indices (int64) of the samples whose image was saved with a part, beyond those for figures."""
    if not path.exists():
        return np.zeros(0, np.int64)
    with _open(path) as file:
        names = [name for name in ("sample", "clean") if name in file.schema_arrow.names]
        table = file.read(columns=names)
    if "clean" in names:
        table = table.filter(table.column("clean").is_null())
    return np.asarray(table.column("sample").to_numpy(), dtype=np.int64)


def read_tables(path: Path, start: int = 0, count: int | None = None, unit: str | None = None) -> Iterator[pa.Table]:
    """Some rows of a file, ``count`` from ``start``, in small tables; ``unit``: all are of this one."""
    with _open(path) as file:
        end = file.metadata.num_rows if count is None else start + count
        first = 0
        for group in range(file.metadata.num_row_groups):
            place, first = first, first + file.metadata.row_group(group).num_rows
            if first <= start or place >= end:
                continue
            for batch in file.iter_batches(_ROWS, [group]):
                table = pa.Table.from_batches([batch])
                _check_size(table)
                low, high = max(0, start - place), min(len(table), end - place)
                if low < high:
                    yield _as_images(table.slice(low, high - low), unit)
                place += len(table)


@dataclass(frozen=True)
class StoredImages:
    """Adversarial images as they are read back.

    Attributes:
        sample: int64 (n,).
        x_adv: float32 (n, c, h, w), exactly as they were judged; anything where the file was changed.
        intact: whether each is what was written, bool (n,).
    """

    sample: np.ndarray
    x_adv: Tensor
    intact: np.ndarray


def decode_images(tables: Iterable[pa.Table], clean: Clean, samples: int, path: Path) -> Iterator[StoredImages]:
    """Images of rows that were read from ``path``.

    Args:
        clean: of the data set that they were made from.
        samples: how many it has.

    Raises:
        AdvdpnpError: they are of another size, or of samples that do not exist.
    """
    shape = clean(np.zeros(1, np.int64)).shape[1:]
    read = 0
    for table in tables:
        sample = table.column("sample").to_numpy()
        if table.column("sample").null_count or ((sample < 0) | (sample >= samples)).any():
            raise AdvdpnpError(f"{path} has images of samples that are not in the data set; choose another --dataset")
        read += len(table)
        if read > samples:
            raise AdvdpnpError(f"{path} has {read} images or more, the data set {samples}; the file was changed")
        yield _decode(table, np.asarray(sample, dtype=np.int64), clean, shape.numel(), path)


def _decode(table: pa.Table, sample: np.ndarray, clean: Clean, pixels: int, path: Path) -> StoredImages:
    original = clean(sample)
    x_adv = torch.full(original.shape, torch.nan)  # of a row that has neither
    intact = np.zeros(len(sample), dtype=bool)
    rows = zip(*(table.column(name).to_pylist() for name in ("difference", "image", "digest")), strict=True)
    for place, (difference, image, digest) in enumerate(rows):
        if len(difference or bytes(pixels)) != pixels or len(image or bytes(4 * pixels)) != 4 * pixels:
            raise AdvdpnpError(f"the images in {path} are not of the size of the data set's; choose another --dataset")
        stored = image if difference is None else difference
        intact[place] = stored is not None and _digest(stored) == digest and None in (difference, image)
        if image is not None or (difference is not None and original.dtype == torch.uint8):
            x_adv[place] = _restore(original[place], difference, image)
    return StoredImages(sample, x_adv, intact)


def decode_examples(tables: Iterable[pa.Table], shape: Sequence[int], path: Path) -> dict[str, np.ndarray]:
    """The images that are stored together with their clean one, sorted by sample.

    Args:
        shape: (c, h, w).

    Returns:
        sample int64 (n,), x and x_adv float32 (n, c, h, w); without any, n is 0.
    """
    found: dict[int, tuple[np.ndarray, np.ndarray]] = {}
    try:
        for table in tables:
            for row in table.filter(table.column("clean").is_valid()).to_pylist():
                clean = _floats(row["clean"]).reshape(*shape)
                as_bytes = clean.mul(255).round().to(torch.uint8)
                found[row["sample"]] = clean.numpy(), _restore(as_bytes, row["difference"], row["image"]).numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise images_damaged(path) from error
    samples = sorted(found)
    empty = np.zeros((0, *shape), np.float32)
    x, x_adv = (np.stack([found[each][i] for each in samples]) if samples else empty for i in (0, 1))
    return {"sample": np.array(samples, np.int64), "x": x, "x_adv": x_adv}


Source = Callable[[], Iterator[pa.Table]]
"""Gives the tables of a file of images, as often as it is called."""


def choose_images(sources: Sequence[Source], samples: np.ndarray, all_of: np.ndarray) -> Iterator[pa.Table]:
    """Of several files of one evaluation's images, those to keep, each sample's once, sorted by sample.

    Args:
        sources: the files, the oldest first.
        samples: sorted samples of the evaluation, int64; the first ``EXAMPLES`` keep whatever image they have.
        all_of: samples, int64, that are to keep their image too, if it was saved and not only for figures.
    """
    shown = samples[:EXAMPLES]
    clean: dict[int, bytes] = {}
    found = [np.zeros((4, 0), np.int64)]  # sample, whether the image is for figures alone, source, row
    for number, source in enumerate(sources):
        row = 0
        for table in source():
            sample, original = table.column("sample").to_numpy(), table.column("clean")
            for_figures = original.is_valid().to_numpy()
            found.append(np.stack([sample, for_figures, np.full_like(sample, number), row + np.arange(len(table))]))
            row += len(table)
            for place in np.flatnonzero(for_figures & np.isin(sample, shown)):
                clean.setdefault(int(sample[place]), original[int(place)].as_py())
    rows = np.concatenate(found, axis=1)
    kept = np.isin(rows[0], shown) | ((rows[1] == 0) & np.isin(rows[0], all_of))
    # An image that was rounded for storage comes before the same one as the attack made it.
    rows = rows[:, kept][:, np.lexsort(rows[::-1, kept])]
    chosen = rows[:, np.unique(rows[0], return_index=True)[1]]
    largest = max(
        map(len, clean.values()), default=1
    )  # a float32 image beside a clean one of bytes has four times that
    count = min(_SORTED, max(1, _LARGEST_BATCH // (8 * largest)))
    for first in range(0, chosen.shape[1], count):
        yield from _sorted_rows(sources, chosen[:, first : first + count], clean)


def _sorted_rows(sources: Sequence[Source], chosen: np.ndarray, clean: Mapping[int, bytes]) -> Iterator[pa.Table]:
    """The ``chosen`` rows by sample: the bytes of the file do not depend on the order in which they were found."""
    found = []
    for number in np.unique(chosen[2]):
        mine, row = chosen[3, chosen[2] == number], 0
        for table in sources[number]():
            found.append(table.filter(pa.array(np.isin(row + np.arange(len(table)), mine))))
            row += len(table)
    together = pa.concat_tables(found).sort_by("sample")
    originals = pa.array([clean.get(each) for each in together.column("sample").to_pylist()], pa.binary())
    together = together.set_column(together.column_names.index("clean"), "clean", originals)
    for start in range(0, len(together), _ROWS):
        yield together.slice(start, _ROWS)


def _bytes_of(images: Tensor) -> list[bytes]:
    exact = np.ascontiguousarray(images.flatten(1).numpy(), dtype="<f4")
    return [row.tobytes() for row in exact]


def _floats(stored: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(stored, dtype="<f4").astype(np.float32))


def _restore(original: Tensor, difference: bytes | None, image: bytes | None) -> Tensor:
    """The adversarial image, float32: the image of bytes ``original`` moved modulo 256, or what was stored itself."""
    if difference is None or original.dtype != torch.uint8:
        return _floats(image or b"").reshape(original.shape)
    change = torch.frombuffer(bytearray(difference), dtype=torch.uint8).reshape(original.shape)
    return to_float(original + change)


def _digest(stored: bytes) -> bytes:
    return hashlib.sha256(stored).digest()[:_DIGEST]


def _check_size(table: pa.Table) -> None:
    """Check that rows that were read as words of a dictionary may be written out: a few bytes can stand for terabytes.

    Raises:
        ValueError: they may not.
    """
    size = 0
    for column in table.columns:
        for chunk in column.chunks if pa.types.is_dictionary(column.type) else ():
            lengths = pc.fill_null(pc.take(pc.binary_length(chunk.dictionary), chunk.indices), 0)
            size += pc.sum(pc.cast(lengths, pa.int64())).as_py() or 0
    if size > _LARGEST_BATCH:
        raise ValueError("its images are larger than any")


def _as_images(table: pa.Table, unit: str | None) -> pa.Table:
    if unit is not None and table.column("unit").unique().to_pylist() != [unit]:
        raise ValueError("images of another evaluation")
    if table.column("sample").null_count:
        raise ValueError("an image of no sample")
    if "clean" not in table.column_names:  # files of before
        table = table.append_column("clean", pa.nulls(len(table), pa.binary()))
    return table.select(IMAGES.names).cast(IMAGES)


def images_damaged(path: Path) -> AdvdpnpError:
    """The error for a file of images that cannot be read or is not what was written."""
    return AdvdpnpError(
        f"the images in {path} are damaged; delete the file and run the same evaluation again with "
        "--save-adversarials, which makes them again"
    )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[pq.ParquetFile]:
    """The file, its columns checked; whatever goes wrong with it inside becomes one sentence."""
    try:
        check_file(path, LARGEST_IMAGES)
        with open(path, "rb") as stream:  # a path with a colon would be taken for an address
            held = pq.read_metadata(stream)
        kinds = {each.name: each.type for each in held.schema.to_arrow_schema()}
        words = [name for name, kind in kinds.items() if pa.types.is_binary(kind) or pa.types.is_string(kind)]
        with (
            open(path, "rb") as stream,
            pq.ParquetFile(stream, page_checksum_verification=True, read_dictionary=words) as file,
        ):
            if held.num_rows > MOST_ROWS or any(
                held.row_group(group).total_byte_size > _LARGEST_GROUP for group in range(held.num_row_groups)
            ):
                raise ValueError("it holds more than any evaluation")
            check_pages(stream, held, tuple(kinds), _LARGEST_COLUMN)
            if len(kinds) < len(held.schema.to_arrow_schema()):
                raise ValueError("it has a column twice")
            if not set(IMAGES.names) - {"clean"} <= set(file.schema_arrow.names):
                raise AdvdpnpError(f"{path} holds no adversarial images; delete it and run the same evaluation again")
            yield file
    except (pa.ArrowException, ValueError, OSError, MemoryError) as error:
        raise images_damaged(path) from error
