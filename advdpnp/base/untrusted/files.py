"""Files of strangers: no larger than what is expected of them, and nothing taken from them that no schema names.

Readers raise a ``ValueError`` that says what is wrong; the caller puts the name of the file and the remedy around it.
"""

import json
import math
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, TypeVar

import numpy as np
import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from advdpnp.base.untrusted.text import LONGEST_NAME, printable, shown

STRICT = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
"""Of every schema: no field that it does not name, no text for a number, no number that is not finite."""

LARGEST_JSON = 2**24
LARGEST_YAML = 2**18
"""Bytes of a file."""
_DEEPEST = 24
_MOST_VALUES = {"JSON": 2_000_000, "YAML": 20_000}

T = TypeVar("T")


def _check_name(text: str) -> str:
    if not text.isprintable():
        raise ValueError("line breaks, control characters and signs without a shape are no part of a name")
    return text


Text = Annotated[str, Field(max_length=LONGEST_NAME), AfterValidator(_check_name)]
"""A name or a word that tables show; may be empty."""
Name = Annotated[Text, Field(min_length=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=2**63)]


def read_bounded(path: Path, most: int) -> bytes:
    """All bytes of a file; raises as ``check_file``."""
    check_file(path, most)
    return path.read_bytes()


def check_file(path: Path, most: int) -> None:
    """Check that a file may be read.

    Raises:
        OSError: it cannot be.
        ValueError: it is a pipe or a device, which may never end, or has more than ``most`` bytes.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is a folder" if stat.S_ISDIR(status.st_mode) else "it is no regular file")
    if status.st_size > most:
        raise ValueError(f"it has {status.st_size:,} bytes, more than the {most:,} that such a file may have")


def parse_json(text: str | bytes, most: int = LARGEST_JSON) -> Any:
    """JSON of at most ``most`` characters and bounded depth that names no key twice.

    NaN and infinity pass: schemas refuse them.

    Raises:
        ValueError: it is something else.
    """
    if len(text) > most:
        raise ValueError(f"it has {len(text):,} bytes, more than {most:,}")
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole_number)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check_size(value, "JSON")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {shown(next(name for name in names if names.count(name) > 1))} twice")
    return found


def _whole_number(text: str) -> int:
    if len(text) > 40:
        raise ValueError(f"it has a number of {len(text)} digits")
    return int(text)


def _check_size(value: Any, kind: str) -> None:
    """Whether plain values are bounded once every alias is written out."""
    waiting, count = [iter((value,))], 0
    while waiting:
        for each in waiting[-1]:
            count += 1
            if count > _MOST_VALUES[kind]:
                raise ValueError(f"it has more than {_MOST_VALUES[kind]:,} values")
            if isinstance(each, dict | list):
                if len(waiting) > _DEEPEST:
                    raise ValueError("it is nested too deeply")
                waiting.append(iter(each.values() if isinstance(each, dict) else each))
                break
        else:
            waiting.pop()


class _Loader(yaml.SafeLoader):
    """YAML as everyone reads it, but a key that stands twice is a mistake, and so is a number of 5,000 digits."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":  # nested, a few lines of them become millions
                raise ValueError(f"it merges mappings with << (line {key.start_mark.line + 1}), which is not read")
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ValueError(f"it has the key {shown(key.value)} twice (line {key.start_mark.line + 1})")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """YAML of bounded depth and size that names no key twice.

    Raises:
        ValueError: it is something else.
    """
    if len(text) > LARGEST_YAML:
        raise ValueError(f"it has {len(text):,} characters, more than {LARGEST_YAML:,}")
    try:
        value = yaml.load(text, _Loader)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    _check_size(value, "YAML")
    return value


def validated(schema: "TypeAdapter[T]", value: Any) -> T:
    """What ``parse_json`` gave, as the schema has it; raises a ``ValueError`` that names the first wrong field."""
    try:
        return schema.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise ValueError(problem(error)) from None


def problem(error: ValidationError) -> str:
    """The first of a schema's complaints, with the field: "model.classes cannot be 0: ..."."""
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"]))
    said = first["msg"].removeprefix("Value error, ")
    said = said[:1].lower() + said[1:]
    if first["type"] == "missing":
        return f"{where} is missing"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"there is no field {where}"
    return f"{where or 'it'} cannot be {shown(first['input'])}: {said}"


def describe_fault(error: Exception) -> str:
    """A reader's complaint for a sentence: short, and without signs that no terminal can show."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, json.JSONDecodeError):
        return f"it is not JSON, line {error.lineno}"
    text = " ".join(str(error).split())
    return printable(text, 300) if text else type(error).__name__


_GREATEST_RATIO = 200  # of photographs, about 1.1; of drawings, rarely 30; deflate reaches 1,032 on constant bytes
_LITTLE = 2**28  # bytes that are no danger, whatever they were packed into


UNREADABLE_ARRAY = (ValueError, EOFError, zipfile.BadZipFile, SyntaxError, tokenize.TokenError)
"""What numpy raises for a file that is none of its own; it takes the header of an array for Python."""


@contextmanager
def open_arrays(path: Path) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of an ``.npz`` file, each read when it is asked for; no objects.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such file, or its arrays would fill far more memory than the file explains.
    """
    if not path.is_file() and not path.is_dir() and path.exists():  # a pipe would never end
        raise ValueError("it is no regular file")
    with open(path, "rb") as stream:
        if stream.read(6) == b"\x93NUMPY":
            raise ValueError("it is a single array")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _check_members(archive)
        with np.load(path, allow_pickle=False) as stored:
            yield stored
    except (zlib.error, NotImplementedError, RuntimeError, *UNREADABLE_ARRAY) as error:
        raise ValueError(str(error) or "it ends too early") from error


def _check_members(archive: zipfile.ZipFile) -> None:
    whole = 0
    for member in archive.infolist():
        whole += member.file_size
        name, size = shown(Path(member.filename).stem), member.file_size
        if size > max(_LITTLE, _GREATEST_RATIO * member.compress_size) or whole > 2**40:
            raise ValueError(
                f"its array {name} would take {size / 1e9:.1f} GB, packed into {member.compress_size / 1e6:.1f} MB"
            )
        with archive.open(member) as stream:
            declared = _declared(stream)
        if declared is not None and declared != size:
            raise ValueError(f"its array {name} says that it has {declared:,} bytes, but has {size:,}")


def _declared(stream: IO[bytes]) -> int | None:
    """Bytes of an array's file as its header tells; None for objects, which are refused later."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise ValueError(f"it has an array in version {version} of the format")
    shape, _, dtype = read[version](stream)
    return None if dtype.hasobject else stream.tell() + dtype.itemsize * math.prod(shape)
