"""One page out of sections: templates, style and scripts inside, nothing loaded from anywhere."""

import base64
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.report.html.context import Model, PageContext
from advdpnp.eval.report.html.section import Section
from advdpnp.eval.report.html.sections import SECTIONS
from advdpnp.eval.report.leaderboard import Flags, to_json
from advdpnp.eval.report.tables import number

_EARLY = ("theme.js",)
_LATE = ("charts.js", "table.js", "address.js", "filter.js", "page.js")


def to_html(frame: pd.DataFrame, rows: Sequence[Row], folders: Sequence[Path] = (), flags: Flags | None = None) -> str:
    """The page of a leaderboard.

    Everything that comes from users is escaped: by the templates in markup, by ``as_json`` in data. Beyond that the
    page's own policy lets no script run but those that are in this package.

    Args:
        frame: as ``tabulate_rows`` makes it, with published rows or without.
        rows: what it was made of.
        folders: where geometry is looked for.
        flags: of the rows, where they are known already.
    """
    context = PageContext(frame, rows, folders, flags)
    early, late = (_script(names) for names in (_EARLY, _LATE))
    shown = [(section, found) for section in SECTIONS if (found := section.gather(context)) is not None]
    return _environment().get_template("page.html.j2").render(
        context=context,
        title=_title(context),
        sections=shown,
        paired=_paired(shown),
        datasets=sorted({row.dataset for row in rows}),
        methods=sorted({model.method for model in context.models if model.method}),
        newest=max(context.frame["date"], default="")[:10],
        style=Markup(_asset("page.css")),
        early=Markup(early),
        late=Markup(late),
        hashes=[_source_hash(text) for text in (early, late)],
        model_data=as_json([_searchable(model) for model in context.models]),
        data=as_json(json.loads(to_json(frame))),
    )  # fmt: skip


def _paired(shown: Sequence[tuple[Section, Mapping[str, Any]]]) -> set[str]:
    """Keys of narrow sections of one block whose neighbour is one too: they stand side by side."""
    alone = [section.narrow and len(found["blocks"]) == 1 for section, found in shown]
    pairs: set[str] = set()
    for place in range(len(shown) - 1):
        here, there = shown[place][0].key, shown[place + 1][0].key
        if alone[place] and alone[place + 1] and here not in pairs:
            pairs |= {here, there}
    return pairs


def as_json(value: Any) -> Markup:
    """JSON that can stand in a ``<script>``: no character of it ends the element or opens a comment."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def short(count: int) -> str:
    """A large number in three digits: 94k, 1.25M, 36.5M."""
    for unit, letter in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.3g}{letter}"
    return str(count)


def breakable(name: str) -> Markup:
    """A name that may be broken after its underscores, slashes, colons and dots."""
    return Markup("<wbr>").join(re.split(r"(?<=[_/:.])(?=.)", name))


def _searchable(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "method": model.method,
        "architecture": model.architecture,
        "flagged": model.flagged,
        "colour": model.colour,
        "mark": model.look.mark,
    }


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("advdpnp.eval.report.html"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"as_json": as_json, "percent": number, "short": short, "breakable": breakable}
    return environment


def _title(context: PageContext) -> str:
    names = sorted({row.dataset for row in context.rows})
    return f"Robustness on {', '.join(names)}" if names else "Robustness leaderboard"


def _asset(name: str) -> str:
    return (resources.files("advdpnp.eval.report.html") / "assets" / name).read_text(encoding="utf-8")


def _script(names: Sequence[str]) -> str:
    return "\n".join(_asset(name) for name in names)


def _source_hash(script: str) -> str:
    """What a content security policy knows an inline script by."""
    return "sha256-" + base64.b64encode(sha256(script.encode()).digest()).decode()
