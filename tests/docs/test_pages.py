"""The documentation: links resolve, named files exist, commands parse, the README holds what it promises."""

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

import advdpnp
from advdpnp.cli import app
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.analysis.rows import make_rows
from advdpnp.eval.store.reader import find_results
from advdpnp.training.methods.base import build_method
from advdpnp.training.recipe import resolve_recipe

ROOT = Path(advdpnp.__file__).resolve().parent.parent
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
PAGES = sorted([*GUIDES, *(ROOT / "results").rglob("README.md")])
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
FILE = re.compile(r"`((?:advdpnp|attacks|benchmarks|corruption|docs|eval|results|tests)/[\w./-]*)`")


def without_code(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", without_code(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for target, anchor in LINK.findall(without_code(page)):
        there = (page.parent / target).resolve() if target else page
        assert there.exists(), target
        assert not anchor or there.suffix != ".md" or anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_files_that_are_named_exist(page: Path) -> None:
    made = {
        "results/DATASET/",
        "results/detection/DATASET/",
        "results/cifar10/leaderboard.html",
    }  # by the commands that the pages show
    missing = [name for name in FILE.findall(without_code(page)) if name not in made and not (ROOT / name).exists()]
    assert [name for name in missing if "NAME" not in name] == []


def commands_of(page: Path) -> list[list[str]]:
    """Every line of the page that calls the program, in blocks that are not run."""
    text = page.read_text(encoding="utf-8").replace("\\\n", "")
    blocks = [
        *re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE),
        *re.findall(r"^    advdpnp .+$", text, re.MULTILINE),
    ]
    lines = [line.partition(" # ")[0].strip() for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("advdpnp ")]


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_have_the_options_that_pages_give_them(page: Path) -> None:
    group = typer.main.get_command(app)
    for words in commands_of(page):
        command = group.commands[words[0]]  # type: ignore[attr-defined]
        command.make_context(words[0], words[1:], resilient_parsing=False)


def test_the_levers_of_training_are_settings_of_a_recipe() -> None:
    text = (ROOT / "docs" / "tutorials" / "train.md").read_text(encoding="utf-8")
    settings = re.findall(r"^\| `(\S+=\S+)` \|", text.partition("## Levers")[2].partition("\n## ")[0], re.MULTILINE)
    assert {"model.activation=silu", "augmentation=idbh", "method.label_smoothing=0.1"} <= set(settings)
    for setting in settings:
        build_method(resolve_recipe("pgd-at", "none", {"model.architecture": "resnet18"}, [setting]).method)


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert any(line.startswith("    make test") for line in lines)
    assert any(line.startswith("    make demo") for line in lines)


def test_the_output_in_the_readme_is_what_the_stored_verdicts_say() -> None:
    """Verdicts do not depend on what else is attacked, so the first 100 of the stored 1,000 are those of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = {row.model.name: row for row in make_rows(find_results([ROOT / "results" / "cifar10"]))}
    for name in ("cifar10-adv-dpnp-s0", "cifar10-pgd-at-s0"):
        row = rows[name]
        wrong = [row.clean_wrong, *(row.misclassified_under(a) for a in ("fgsm", "pgd-20", "cw", "autoattack"))]
        robust = [f"{100 - each[:100].sum():.2f}" for each in wrong]
        (line,) = re.findall(rf"^{name} +linf 8/255 +(.*)$", text, re.MULTILINE)
        assert line.split()[:5] == robust
    (line,) = re.findall(r"^ clean  fgsm .*\n(.*)$", text, re.MULTILINE)
    assert [f"{float(number):.2f}" for number in line.split()[:5]] == robust


def script(name: str) -> ModuleType:
    path = ROOT / "docs" / "scripts" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_picture_of_the_readme_is_drawn_from_the_leaderboard() -> None:
    """`python docs/scripts/picture.py` draws it again."""
    drawn = script("picture").pictures()
    assert len(drawn) == 2
    for path, content in drawn.items():
        assert path.read_text(encoding="utf-8") == content
    table = read_leaderboard(ROOT / "results" / "cifar10" / "leaderboard.csv").set_index("model")
    assert f">{table.loc['cifar10-mart-s0', 'autoattack']:.1f}<" in content
    assert ">ce-margin-gap<" in content


def test_the_lists_hold_every_entry_and_the_known_cost_of_autoattack() -> None:
    lists = script("lists")
    assert {entry.name for entry in lists.METHODS} == set(re.findall(r"^\| `([^`]+)`", lists.methods(), re.MULTILINE))
    meaning = lists.FLAGS["ce-margin-gap"]
    assert f"| `ce-margin-gap` | {meaning.explanation} | {meaning.remedy} |" in lists.flags()
    assert lists.flags().count("\n") == len(lists.FLAGS) + 1
    costs = lists._costs({"fgsm": lists._made("fgsm")})
    assert costs["fgsm"] == (3, 1)  # the clean image, one step, the check of the last image
    shown = lists.commands()
    assert all(f"## {name}\n" in shown for name in ("train", "eval", "leaderboard", "verify", "corrupt"))
    assert "`--save-adversarials`" in shown
    assert all(f".{name}" in lists.python() for name in advdpnp.__all__ if not name.startswith("_"))
