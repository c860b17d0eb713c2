"""Published results of RobustBench, for comparison with what was measured here.

The rows come with the installed package: its description holds the tables of its model zoo (clean and robust accuracy,
architecture, venue; the leaderboard on the web has more). They hold no verdicts, so nothing is tested against them,
and nothing of theirs or ours is called the best. Their robust accuracy is that of AutoAttack, or a lower one that
another attack has found.
"""

import itertools
import math
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import pandas as pd

from advdpnp.attacks.threat import ThreatModel
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.analysis.corruptions import MEAN
from advdpnp.eval.report.tables import Grid, number, threat_words

PUBLISHED = "published (RobustBench)"
"""In the column ``source`` of a leaderboard; what was measured has an empty one."""
SHOWN = 10
"""So many published rows stand in tables for people: the best one, then those nearest to ours in architecture and size;
all of them in CSV and JSON."""

_DATASETS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100", "ImageNet": "imagenet"}
_IMAGES = {"cifar10": 10_000, "cifar100": 10_000, "imagenet": 5_000}
_THREAT = re.compile(r"(Linf|L2), eps=(\S+)")
_MARKUP = re.compile(r"</?su[bp]>|<br\s*/?>|\*")
_WIDE = re.compile(r"WideResNet-(\d+)-(\d+)")
_MILLIONS = {
    "WideResNet-50-2": 69, "WideResNet-101-2": 127, "ResNet-18": 11.2, "ResNet-50": 24, "ResNet-152": 60,
    "ResNest152": 60, "ResNeXt29": 6.8, "XCiT-S12": 26, "XCiT-M12": 46, "XCiT-L12": 104, "ConvNeXt-T": 29,
    "ConvNeXt-S": 50, "ConvNeXt-B": 89, "ConvNeXt-L": 198, "ConvNeXtV2-L": 198, "Swin-B": 88, "Swin-L": 197,
    "ViT-S": 22, "ViT-B": 87,
}  # fmt: skip
"""Parameters by what an architecture's name contains; RobustBench publishes none."""
_LINK = re.compile(r"\[(.*?)\]\((.*?)\)")


def published_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The published rows of the data sets and threat models of a leaderboard, in its columns and four more.

    ``worst_case`` holds the robust accuracy. Rows on official corrupted images (``corruptions``) are there where the
    leaderboard has some on official images too.

    Raises:
        AdvdpnpError: RobustBench is not installed, or its description has no such tables.
    """
    tables = _read_tables()
    wanted = [table for table in tables.values() if _is_of(table, frame)]
    columns = [*frame.columns, "source", "venue", "paper", "url"]
    found = pd.concat([table.reindex(columns=columns) for table in wanted]) if wanted else pd.DataFrame(columns=columns)
    return found.reset_index(drop=True)


def is_published(frame: pd.DataFrame) -> pd.Series:
    """Which rows of a leaderboard are published ones, bool."""
    return frame["source"] == PUBLISHED if "source" in frame else pd.Series(False, frame.index)


def published_grids(frame: pd.DataFrame) -> Iterator[Grid]:
    """Ours and the best of the published rows in one order, for every threat model; nothing is marked as best."""
    theirs = is_published(frame)
    if "source" not in frame:
        return
    ours = frame[~theirs]
    for _, part in ours[ours["norm"] != ""].groupby(["dataset", "norm", "eps"], sort=False):
        first = part.iloc[0]
        same = frame[theirs & (frame["dataset"] == first["dataset"]) & (frame["norm"] == first["norm"])]
        same = same[[math.isclose(value, first["eps"]) for value in same["eps"]]]
        words = f"{first['dataset']}, {threat_words(first)}"
        if same.empty:
            yield Grid(f"{words}: RobustBench publishes nothing under this threat model", [], [])
        else:
            yield _side_by_side(part, same, "worst_case", "robust", words)
    for source in dict.fromkeys(ours.loc[ours["corruption_source"] != "", "corruption_source"]):
        same = frame[theirs & (frame["corruption_source"] == source)]
        if same.empty:
            yield Grid(f"{source}: RobustBench publishes accuracies on the official files of CIFAR-C alone", [], [])
        else:
            part = ours[(ours["corruption_source"] == source) & ours[MEAN].notna()]
            yield _side_by_side(part.drop_duplicates("weights_hash"), same, MEAN, MEAN, source)


def _side_by_side(ours: pd.DataFrame, theirs: pd.DataFrame, column: str, head: str, words: str) -> Grid:
    chosen = _nearest(ours, theirs.sort_values(column, ascending=False, kind="stable"))
    both = pd.concat([ours, chosen]).sort_values(column, ascending=False, kind="stable")
    rows, links = [], {}
    for place, (_, row) in enumerate(both.iterrows()):
        published = row["source"] == PUBLISHED
        if published and str(row["url"]).startswith("https://"):
            links[place] = str(row["url"])
        accuracies = [number(row[name]) for name in ("clean", column)]
        source = f"{PUBLISHED}, {row['venue']}" if published else "ours"
        rows.append([row["model"], row["architecture"], *accuracies, str(row["n"]), source])
    notes = [
        f"Published: {len(chosen)} of {len(theirs)} in the model zoo of RobustBench {_version()}, the best and those "
        "nearest to ours in architecture and size; leaderboard.csv has all. Ours are on the first n images, so the two "
        "are never tested against each other."
    ]
    weak = [] if column == MEAN else list(ours.loc[ours["standard_autoattack"] != "yes", "model"])
    if weak:
        notes.append(f"Never attacked by the standard AutoAttack, so no match for theirs: {', '.join(weak)}.")
    caption = f"{words}: compared with what RobustBench publishes; accuracy in percent"
    heads = ["model", "architecture", "clean", head, "n", "source"]
    return Grid(caption, heads, rows, ("architecture", "source"), notes, links)


def _nearest(ours: pd.DataFrame, theirs: pd.DataFrame) -> pd.DataFrame:
    """Of published rows, best first: the best one, and those of our architectures or else of the nearest size."""
    same = set(map(_plain, ours["architecture"])) - {""}
    sizes = [math.log(count) for count in ours["parameters"].dropna() if count > 0]

    def distance(architecture: str) -> float:
        size = _parameters(architecture)
        if _plain(architecture) in same:
            return -1.0
        return min((abs(math.log(size) - each) for each in sizes), default=0.0) if size else math.inf

    order = theirs.iloc[1:].assign(distance=theirs["architecture"].map(distance)).sort_values("distance", kind="stable")
    return pd.concat([theirs.iloc[:1], order.drop(columns="distance").head(SHOWN - 1)])


def _plain(architecture: str) -> str:
    """The name without its punctuation: "WRN-28-10" and "wide-resnet-28-10" are one."""
    return re.sub(r"[^a-z0-9]", "", architecture.lower()).replace("wrn", "wideresnet")


def _parameters(architecture: str) -> float | None:
    """About how many parameters an architecture has; None where its name does not say."""
    for name, millions in _MILLIONS.items():
        if re.search(rf"{re.escape(name)}(?!\d)", architecture):
            return 1e6 * millions
    if found := _WIDE.search(architecture):
        depth, width = int(found[1]), int(found[2])
        channels, layers = (16, 16 * width, 32 * width, 64 * width), (depth - 4) // 3
        return float(sum(9 * b * (a + (layers - 1) * b) for a, b in itertools.pairwise(channels)))
    return None


def _is_of(table: pd.DataFrame, frame: pd.DataFrame) -> bool:
    first = table.iloc[0]
    same = frame[frame["dataset"] == first["dataset"]]
    if first["norm"]:
        return any(
            norm == first["norm"] and math.isclose(eps, first["eps"])
            for norm, eps in zip(same["norm"], same["eps"], strict=True)
        )
    return bool((same["corruption_source"] == first["corruption_source"]).any())


def _read_tables() -> dict[tuple[str, str], pd.DataFrame]:
    """Every table of the description by its two headings."""
    try:
        text = str(distribution("robustbench").metadata["Description"])
    except PackageNotFoundError as error:
        raise AdvdpnpError(
            "the published rows come with robustbench, which is not installed; pip install robustbench"
        ) from error
    tables: dict[tuple[str, str], list[dict[str, Any]]] = {}
    dataset = heading = ""
    for line in text.splitlines():
        if line.startswith("### "):
            dataset, heading = _DATASETS.get(line[4:].strip(), ""), ""
        elif line.startswith("#"):
            heading = line.strip("# ")
        elif dataset and heading and (about := _about(dataset, heading)) and (row := _row(line)):
            column = "worst_case" if about["norm"] else MEAN
            clean, robust = row.pop("accuracies")
            tables.setdefault((dataset, heading), []).append({**row, **about, "clean": clean, column: robust})
    if not tables:
        raise AdvdpnpError(
            f"robustbench {_version()}, as it is installed, does not tell what was published; "
            "pip install robustbench==1.1.1"
        )
    return {key: pd.DataFrame(rows) for key, rows in tables.items()}


def _about(dataset: str, heading: str) -> dict[str, Any]:
    """What a table is of: a threat model, or official corrupted images; empty if neither."""
    common: dict[str, Any] = {
        "dataset": dataset, "n": _IMAGES[dataset], "source": PUBLISHED, "flags": "", "corruption_source": "",
    }  # fmt: skip
    if match := _THREAT.fullmatch(heading):
        threat = ThreatModel.parse(match[1], match[2])
        return {**common, "norm": threat.norm, "eps": threat.eps, "eps_text": threat.text}
    if heading.endswith("Corruptions"):  # that of ImageNet is of two benchmarks, and goes by another name
        return {**common, "norm": "", "eps": math.nan, "eps_text": "", "corruption_source": f"{dataset}-c"}
    return {}


def _row(line: str) -> dict[str, Any]:
    """One line of a table; empty for anything else."""
    cells = [" ".join(_MARKUP.sub(" ", cell).split()) for cell in line.strip().strip("|").split("|")]
    if len(cells) != 7 or not cells[0].isdigit():
        return {}
    name, link, clean, robust, architecture, venue = cells[1:]
    paper = _LINK.fullmatch(link)
    return {
        "model": name, "architecture": architecture, "venue": venue,
        "paper": paper[1].strip() if paper else link, "url": paper[2] if paper else "",
        "accuracies": (float(clean.rstrip("% ")), float(robust.rstrip("% "))),
    }  # fmt: skip


def _version() -> str:
    return distribution("robustbench").version
