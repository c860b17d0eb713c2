"""Draw the picture of the README from a committed leaderboard: ``python docs/scripts/picture.py``.

Two SVG files, for light and dark pages: a table, and beside each row clean accuracy, accuracy under AutoAttack and
their 95 % intervals. Every number is a text of the file, so that a test can compare it with the leaderboard.
"""

from pathlib import Path
from xml.sax.saxutils import escape

import pandas as pd

ROOT = Path(__file__).resolve().parents[2]
LEADERBOARD = ROOT / "results" / "cifar10" / "leaderboard.csv"
FOLDER = ROOT / "docs" / "images"

COLUMNS = {"clean": 136, "fgsm": 188, "pgd-20": 248, "cw": 296, "autoattack": 382, "corruptions": 472}
NAMES = {"cw": "C&W", "fgsm": "FGSM", "pgd-20": "PGD-20", "autoattack": "AutoAttack"}
_KINDS = ("text", "soft", "line", "clean", "robust", "flag")
THEMES = {
    "light": dict(zip(_KINDS, ("#1f2328", "#59636e", "#d1d9e0", "#8c959f", "#0969da", "#bc4c00"), strict=True)),
    "dark": dict(zip(_KINDS, ("#f0f6fc", "#9198a1", "#3d444d", "#9198a1", "#4493f8", "#f0883e"), strict=True)),
}
WIDTH, ROW, TOP = 900, 30, 84
LEFT, RIGHT = 612, 880  # of the axis, 0 to 100 %


def draw(table: pd.DataFrame, theme: dict[str, str]) -> str:
    """The picture of a leaderboard as SVG, transparent behind."""
    height = TOP + ROW * len(table) + 42
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        "font-family=\"system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif\" font-size=\"14\">",
        "<title>Accuracy of nine models on CIFAR-10, clean and under attack</title>",
        _text(8, 24, "CIFAR-10, Linf 8/255, first 1,000 test images, small CNN, 12 epochs, one seed", theme["soft"]),
        _text(8, TOP - 14, "method", theme["soft"]),
        *(_text(place, TOP - 14, NAMES.get(name, name), theme["soft"], "end") for name, place in COLUMNS.items()),
        _text(490, TOP - 14, "flags", theme["soft"]),
        f'<circle cx="{LEFT + 4}" cy="{TOP - 50}" r="5" fill="{theme["clean"]}"/>',
        _text(LEFT + 14, TOP - 45, "clean", theme["soft"]),
        f'<circle cx="{LEFT + 74}" cy="{TOP - 50}" r="5" fill="{theme["robust"]}"/>',
        _text(LEFT + 84, TOP - 45, "under AutoAttack", theme["soft"]),
    ]
    bottom = TOP + ROW * len(table)
    for percent in range(0, 101, 20):
        x = _x(percent)
        parts.append(f'<line x1="{x}" x2="{x}" y1="{TOP - 8}" y2="{bottom}" stroke="{theme["line"]}"/>')
        parts.append(_text(x, TOP - 14, f"{percent}", theme["soft"], "middle", 12))
    for index, (_, row) in enumerate(table.iterrows()):
        y = TOP + ROW * index + ROW / 2
        parts.append(f'<line x1="8" x2="{WIDTH - 8}" y1="{y - 15}" y2="{y - 15}" stroke="{theme["line"]}"/>')
        parts.append(_text(8, y + 5, row["method"], theme["text"]))
        parts += [_text(x, y + 5, f"{row[name]:.1f}", theme["text"], "end") for name, x in COLUMNS.items()]
        parts.append(_text(490, y + 5, row["flags"], theme["flag"]))
        for name, kind in (("clean", "clean"), ("autoattack", "robust")):
            low, high, middle = (_x(row[key]) for key in (f"{name}_low", f"{name}_high", name))
            parts.append(
                f'<line x1="{low}" x2="{high}" y1="{y}" y2="{y}" stroke="{theme[kind]}" stroke-width="3" '
                'stroke-opacity=".45" stroke-linecap="round"/>'
            )
            parts.append(f'<circle cx="{middle}" cy="{y}" r="5" fill="{theme[kind]}"/>')
    note = "Percent, with 95 % intervals at the right. corruptions: mean over 75 regenerated cells of CIFAR-10-C."
    return "\n".join([*parts, _text(8, bottom + 26, note, theme["soft"], size=12), "</svg>\n"])


def _x(percent: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * percent / 100, 1)


def _text(x: float, y: float, words: str, colour: str, anchor: str = "start", size: int = 14) -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" text-anchor="{anchor}" font-size="{size}">{escape(words)}</text>'


def pictures() -> dict[Path, str]:
    """Both files with their content."""
    table = pd.read_csv(LEADERBOARD, keep_default_na=False, na_values=[""]).fillna({"flags": ""})
    return {FOLDER / f"leaderboard-{name}.svg": draw(table, theme) for name, theme in THEMES.items()}


if __name__ == "__main__":
    for path, content in pictures().items():
        path.write_text(content, encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {len(content) / 1000:.1f} kB")
