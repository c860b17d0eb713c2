"""What the results say a model is: the ``model.json`` of its folder."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from advdpnp.base.errors import AdvdpnpError


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

    name: str
    weights_hash: str
    architecture: str = ""
    method: str = ""
    parameters: int = 0
    class_names: tuple[str, ...] = ()
    dataset: str = ""
    min_separation: float | None = None
    training_seconds: float | None = None
    recipe_hash: str = ""
    training_seed: int | None = None
    dtype: str = ""

    def to_json(self) -> dict[str, Any]:
        """What ``model.json`` holds: the same as ever for a model in float32."""
        return {name: value for name, value in asdict(self).items() if name != "dtype" or value}


_FIELDS = {field.name for field in fields(ModelRecord)}


def read_model_record(path: Path) -> ModelRecord:
    """Read a ``model.json``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {"name", "weights_hash"} <= content.keys() <= _FIELDS:
            raise ValueError("it is not a model record")
        content["class_names"] = tuple(content.get("class_names", ()))
        return ModelRecord(**content)
    except (OSError, ValueError, TypeError) as error:
        raise AdvdpnpError(
            f"{path} is damaged ({error}); run the evaluation again with the same --out to rewrite it"
        ) from error
