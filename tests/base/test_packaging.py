"""The layout: one import name over real top-level folders, and nothing imported twice."""

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import advdpnp
from advdpnp.cli import run

ROOT = Path(advdpnp.__file__).resolve().parent.parent
LINKED = ("attacks", "corruption", "eval")
SOURCES = [path for folder in ("advdpnp", *LINKED, "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_bare_or_relative_imports(path):
    """`import attacks` would make a second copy of every module beside advdpnp.attacks."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            names = [node.module or ""]
        assert not {name.partition(".")[0] for name in names} & set(LINKED), f"line {node.lineno}: bare import"


def test_reference_packages_are_imported_by_the_compatibility_module_alone():
    pattern = re.compile(r"^\s*(?:import|from)\s+(?:torchattacks|pyautoattack|autoattack|robustbench)\b", re.MULTILINE)
    found = [str(p.relative_to(ROOT)) for p in SOURCES if pattern.search(p.read_text(encoding="utf-8"))]
    allowed = {"advdpnp/base/compat.py"}
    assert {name for name in found if not name.startswith(("tests", "benchmarks"))} <= allowed


def test_importing_the_package_imports_no_torch():
    heavy = {"torch", "torchattacks", "pyautoattack", "robustbench"}
    code = f"import sys, advdpnp; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_public_names_exist():
    for name in advdpnp.__all__:
        assert getattr(advdpnp, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = advdpnp.no_such_name


@pytest.mark.slow
def test_the_wheel_holds_all_four_packages_and_the_recipes(tmp_path):
    tree = tmp_path / "tree"
    for folder in ("advdpnp", *LINKED):  # built in a copy: setuptools leaves its work beside the sources
        shutil.copytree(ROOT / folder, tree / folder, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, tree)
    words = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", tmp_path, tree]
    built = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {
        "attacks/algorithms/pgd.py",
        "corruption/__init__.py",
        "eval/report/figures/__init__.py",
        "training/recipes/adv-dpnp.yaml",
        "eval/report/html/assets/page.css",
        "eval/report/html/templates/page.html.j2",
        "py.typed",
        "training/recipes/budgets/digits.yaml",
        "training/studies/ablations.yaml",
        "cli.py",
    }
    assert {f"advdpnp/{name}" for name in expected} <= names
    assert {name.partition("/")[0] for name in names} == {"advdpnp", f"advdpnp-{advdpnp.__version__}.dist-info"}


def test_links_checked_out_as_text_are_one_sentence(capsys, monkeypatch):
    """As after a checkout on Windows or from a zip: advdpnp/attacks is a file that says `../attacks`."""
    import advdpnp.commands.doctor
    import advdpnp.commands.listing

    def fail(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(advdpnp.commands.listing.importlib, "import_module", fail)
    monkeypatch.setattr(advdpnp.commands.doctor, "broken_links", lambda package: ["attacks"])
    assert run(["list", "attacks"]) == 2
    assert "advdpnp doctor" in capsys.readouterr().err


HOUSE = [path for path in SOURCES if path.relative_to(ROOT).parts[0] != "tests"]
FOLDERS = sorted({path.parent for path in SOURCES})


def _name(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("folder", FOLDERS, ids=_name)
def test_no_folder_holds_more_modules_than_can_be_seen_at_once(folder):
    modules = {path.name for path in folder.glob("*.py")} - {"__init__.py", "__main__.py", "conftest.py"}
    assert len(modules) <= 12, sorted(modules)


@pytest.mark.parametrize("path", HOUSE, ids=_name)
def test_modules_and_functions_are_short(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > 60} == {}


@pytest.mark.parametrize("path", [path for path in HOUSE if path.name == "__init__.py"], ids=_name)
def test_each_package_says_what_lives_in_it_and_what_may_not(path):
    said = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    assert len(said.splitlines()) >= 3, said
