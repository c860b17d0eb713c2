"""Parquet files of strangers: how large their pages say they are, before a reader makes room for them.

A page of a few kilobytes may unpack to two gigabytes, whatever the footer says of its column. Readers have no limit,
so the headers of all pages are walked first: of Thrift's compact protocol, only what it takes to get past one is known.
"""

from collections.abc import Collection
from typing import BinaryIO

import pyarrow.parquet as pq

_LONGEST_HEADER = 2**16  # bytes; statistics of long values stand in it
_MOST_PAGES = 1_000_000
_DEEPEST = 8


def check_pages(source: BinaryIO, footer: pq.FileMetaData, columns: Collection[str], most: int) -> None:
    """Check that no column of a row group unpacks to more than ``most`` bytes.

    Args:
        source: the whole file; where it stands does not change.
        footer: its metadata.
        columns: names of those that are going to be read.

    Raises:
        ValueError: one does, or its pages are none.
    """
    before = source.tell()
    for group in range(footer.num_row_groups):
        for place in range(footer.num_columns):
            column = footer.row_group(group).column(place)
            if column.path_in_schema.partition(".")[0] in columns:
                _check_column(source, column, most)
    source.seek(before)


def _check_column(source: BinaryIO, column: pq.ColumnChunkMetaData, most: int) -> None:
    """Walk the pages of one column in one row group."""
    place = column.data_page_offset
    if column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < place:
        place = column.dictionary_page_offset
    end, whole = place + column.total_compressed_size, 0
    for _ in range(_MOST_PAGES):
        if place >= end:
            return
        source.seek(place)
        header = _Header(source.read(_LONGEST_HEADER))
        packed, unpacked = header.sizes()
        whole += unpacked
        if packed < 0 or unpacked < 0 or whole > most:
            raise ValueError(f"its column {column.path_in_schema} unpacks to more than {most:,} bytes")
        place += header.place + packed
    raise ValueError(f"its column {column.path_in_schema} has too many pages")


class _Header:
    """A page header, read from its beginning.

    Attributes:
        place: how many bytes have been read.
    """

    def __init__(self, content: bytes) -> None:
        self.content, self.place = content, 0

    def sizes(self) -> tuple[int, int]:
        """Bytes of the page in the file and unpacked: fields 3 and 2 of the header, all of which is read."""
        found = {2: -1, 3: -1}
        self._struct(0, found)
        return found[3], found[2]

    def _byte(self) -> int:
        if self.place >= len(self.content):
            raise ValueError("a page has no header")
        self.place += 1
        return self.content[self.place - 1]

    def _number(self) -> int:
        """A variable-length unsigned integer."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise ValueError("a page has no header")

    def _signed(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)

    def _struct(self, depth: int, found: dict[int, int]) -> None:
        """Read a struct; ``found`` takes the integers of the fields that it names."""
        name = 0
        while (head := self._byte()) != 0:
            name = name + (head >> 4) if head >> 4 else self._signed()
            if head & 0x0F in (4, 5, 6) and name in found:
                found[name] = self._signed()
            else:
                self._skip(head & 0x0F, depth)

    def _skip(self, kind: int, depth: int) -> None:
        if depth > _DEEPEST:
            raise ValueError("a page has no header")
        if kind in (4, 5, 6):
            self._number()
        elif kind in (3, 7):
            self.place += 1 if kind == 3 else 8
        elif kind == 8:
            length = self._number()
            self.place += length
        elif kind == 12:
            self._struct(depth + 1, {})
        elif kind not in (1, 2):  # page headers hold no lists
            raise ValueError("a page has no header")
