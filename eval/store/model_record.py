"""What the results say a model is: the ``model.json`` of its folder."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.untrusted.files import (
    LARGEST_JSON,
    STRICT,
    Count,
    Name,
    Sha256,
    Text,
    describe_fault,
    parse_json,
    read_bounded,
    validated,
)


@dataclass(frozen=True)
class ModelRecord:
    """What ``model.json`` holds.

    Attributes:
        name: as tables show it.
        weights_hash: SHA-256 hex of names, shapes and values of the weights.
        architecture: its name, for the table.
        method: how it was trained; "" if unknown.
        parameters: their number.
        class_names: names of the classes, in the order of the logits; may be empty.
        dataset: name of the data set it was last evaluated on.
        min_separation: smallest angle between two classes, in degrees; None if the checkpoint does not say.
        training_seconds: what training took until the epoch that was kept; None if the checkpoint does not say.
        recipe_hash: of all that the checkpoint says of its training but the seed; "" if it does not say.
        training_seed: the seed it was trained with; None if the checkpoint does not say.
        dtype: precision of the weights and of the verdicts ("bfloat16"); "" for float32.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    name: Name
    weights_hash: Sha256
    architecture: Text = ""
    method: Text = ""
    parameters: Count = 0
    class_names: Annotated[tuple[Text, ...], Field(max_length=1_000_000)] = ()
    dataset: Text = ""
    min_separation: float | None = None
    training_seconds: float | None = None
    recipe_hash: Text = ""
    training_seed: Count | None = None
    dtype: Text = ""

    def to_json(self) -> dict[str, Any]:
        """What ``model.json`` holds: the same as ever for a model in float32."""
        return {name: value for name, value in asdict(self).items() if name != "dtype" or value}


_RECORD = TypeAdapter(ModelRecord)


def read_model_record(path: Path) -> ModelRecord:
    """Read a ``model.json``."""
    try:
        return validated(_RECORD, parse_json(read_bounded(path, LARGEST_JSON)))
    except (OSError, ValueError) as error:
        raise AdvdpnpError(
            f"{path} is damaged ({describe_fault(error)}); run the evaluation again with the same --out to rewrite it"
        ) from error


def find_models(folder: Path) -> list[Path]:
    """The ``model.json`` of every model in or below a folder.

    Raises:
        AdvdpnpError: the folder does not exist or holds none.
    """
    if not folder.is_dir():
        raise AdvdpnpError(f"there is no folder {folder}; give one that 'advdpnp eval --out' has written")
    # os.walk passes over a folder that an evaluation removes meanwhile.
    found = sorted(Path(each, "model.json") for each, _, names in os.walk(folder) if "model.json" in names)
    if not found:
        raise nothing_in(folder, "no results")
    return found


def nothing_in(folder: Path, what: str) -> AdvdpnpError:
    """The error for a folder that holds none of what was looked for."""
    remedy = f"run 'advdpnp eval ... --out {folder}' first"
    if (folder / "leaderboard.csv").exists():
        remedy = "its tables were made from other folders: give those"
    return AdvdpnpError(f"there are {what} in {folder}; {remedy}")
