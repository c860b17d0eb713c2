"""Hooks of mkdocs: lists made from the registries, and links to files outside docs/.

A page holds ``<!-- list: attacks -->`` where the table belongs. Links are written so that they work in the repository;
here they are turned to where the file is on the site. Files under results/ that a page links to are part of the site;
other files of the repository are not, and are named instead.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import lists  # noqa: E402  (beside this file)

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
_CODE = re.compile(r"(```.*?```|`[^`\n]*`)", re.DOTALL)
_PUBLISHED = (".md", ".html", ".png", ".svg", ".csv")


def on_files(files: Files, config: Any) -> Files:
    """Tables, figures and reports under results/ join the site."""
    for path in sorted((ROOT / "results").rglob("*")):
        if path.suffix in _PUBLISHED and path.is_file() and "all" not in path.parts:  # all/ repeats the others
            name = path.relative_to(ROOT).as_posix().replace("README.md", "index.md")
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Fill in the lists and turn the links."""
    source = Path(page.file.src_uri)
    place = source if source.parts[0] == "results" else Path("docs") / source
    text = re.sub(r"<!-- list: (\w+) -->", lambda match: lists.LISTS[match[1]](), markdown)
    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(lambda match: _turned(match, place), part) for part in parts[::2]]
    return "".join(parts)


def _turned(match: re.Match[str], place: Path) -> str:
    picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    if "://" in target or target.startswith("mailto:"):
        return match[0]
    there = Path(os.path.normpath(place.parent / target))
    if there.parts[0] == "docs":
        there = Path(*there.parts[1:])
    elif there.parts[0] == "results" and there.name == "README.md":
        there = there.with_name("index.md")
    elif there.parts[0] != "results" or there.suffix not in _PUBLISHED:
        return text if there.name in text else f"{text} (`{there.as_posix()}`)"
    here = Path(*place.parts[1:]) if place.parts[0] == "docs" else place
    return f"{picture}[{text}]({os.path.relpath(there, here.parent)}{anchor})"
