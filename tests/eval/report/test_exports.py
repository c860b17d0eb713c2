"""What one takes away from results: LaTeX, BibTeX, a model card, an entry for RobustBench, images."""

import json
import re
from collections.abc import Callable
from importlib.metadata import files
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from matplotlib.mathtext import MathTextParser
from PIL import Image

from advdpnp.attacks import ATTACKS, AttackInfo, ThreatModel
from advdpnp.attacks.info import describe
from advdpnp.base.errors import AdvdpnpError
from advdpnp.cli import run
from advdpnp.datasets import load_dataset
from advdpnp.datasets.base import to_float
from advdpnp.eval.analysis.rows import Row, make_rows
from advdpnp.eval.report.exports.bibtex import attack_keys, entries, to_bibtex
from advdpnp.eval.report.exports.latex import to_latex
from advdpnp.eval.report.exports.model_card import to_model_card
from advdpnp.eval.report.exports.model_info import to_model_info
from advdpnp.eval.report.exports.names import METHODS as METHOD_NAMES
from advdpnp.eval.report.exports.names import column_name, dataset_name
from advdpnp.eval.report.leaderboard import build_leaderboard
from advdpnp.eval.store.reader import find_results
from advdpnp.training.methods import METHODS

Store = Callable[..., Path]
ROBUST = {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4, "cw": 0.35, "autoattack": 0.3}


def rows_of(out: Path) -> list[Row]:
    return make_rows(find_results([out]))


def body(text: str) -> list[list[str]]:
    """Cells of the lines between the rules, heads first."""
    lines = [line.strip().removesuffix(r"\\") for line in text.splitlines() if line.endswith(r"\\")]
    return [[cell.strip() for cell in line.split(" & ")] for line in lines]


# LaTeX


def test_names_are_those_of_papers() -> None:
    columns = ["clean", "pgd-20", "cw", "apgd-ce", "fab-t", "autoattack (bf16 search)", "torchattacks:PGD-20", "mine"]
    assert list(map(column_name, columns)) == [
        "Clean", "PGD-20", "C&W", "APGD-CE", "FAB-T", "AutoAttack (bf16 search)", "PGD-20 (torchattacks)", "mine",
    ]  # fmt: skip
    assert column_name("transfer:net-s0") == "Transfer from net-s0"
    assert [dataset_name(each) for each in ("cifar10", "npz:data/mine.npz", "new")] == ["CIFAR-10", "mine", "new"]
    assert set(METHOD_NAMES) == set(METHODS.names())


def test_latex_has_symbols_names_a_label_and_the_best_in_bold(store_model: Store) -> None:
    store_model("cifar10-a_1-s0", ROBUST, method="trades", dataset="cifar10")
    out = store_model("b", {**ROBUST, "autoattack": 0.32}, method="pgd-at", dataset="cifar10")
    text = to_latex(build_leaderboard([out]))
    assert r"on CIFAR-10, $\ell_\infty$, $\epsilon = 8/255$; $n = 200$ test images." in text
    assert r"\label{tab:cifar-10-linf-8-255}" in text
    assert body(text) == [
        ["Method", "Clean", "FGSM", "PGD-20", r"C\&W", "AutoAttack", "Worst case"],
        ["PGD-AT", *[rf"\textbf{{{n}}}" for n in ("90.00", "50.00", "40.00", "35.00", "32.00", "32.00")]],
        ["TRADES", *[rf"\textbf{{{n}}}" for n in ("90.00", "50.00", "40.00", "35.00")], "30.00", r"30.00$^\circ$"],
    ]  # fmt: skip
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1


def test_columns_are_chosen_in_their_order(store_model: Store) -> None:
    frame = build_leaderboard([store_model("a", ROBUST)])
    assert body(to_latex(frame, ["autoattack", "clean"])) == [["Model", "AutoAttack", "Clean"], ["a", "30.00", "90.00"]]
    with pytest.raises(AdvdpnpError, match="no column 'pgd20'; did you mean pgd-20"):
        to_latex(frame, ["pgd20"])


def test_training_seeds_are_one_row_with_their_spread(store_model: Store) -> None:
    for seed, share in enumerate((0.3, 0.32, 0.34)):
        store_model(f"net-s{seed}", {"clean": 0.9, "pgd-20": share}, method="trades", recipe="r", training_seed=seed)
    out = store_model("alone", {"clean": 0.8, "pgd-20": 0.33}, method="pgd-at")
    text = to_latex(build_leaderboard([out]))
    assert body(text)[1:] == [
        ["PGD-AT", "80.00", r"\textbf{33.00}", r"\textbf{33.00}"],
        ["TRADES", r"\textbf{90.00} $\pm$ 0.00", r"32.00 $\pm$ 2.00", r"32.00 $\pm$ 2.00"],
    ]
    assert r"$\pm$: standard deviation over 3 training seeds." in text


def test_marks_are_explained_and_flags_are_never_left_out(store_model: Store) -> None:
    store_model("a_1 & co", {"clean": 0.9, "fgsm": 0.5, "pgd-20": 0.4})
    out = store_model("b", {"clean": 0.8, "fgsm": 0.6}, randomised=True)
    text = to_latex(build_leaderboard([out]), ["clean", "fgsm", "worst_case"])
    assert [r"a\_1 \& co", r"\textbf{90.00}", "50.00", "40.00"] in body(text)
    assert [r"b$^{\dagger\ddagger}$", "80.00", r"\textbf{60.00}", "60.00"] in body(text)
    assert r"$^\ddagger$: flagged, so the numbers may be too high (b: randomised)" in text


def test_labels_differ_where_names_and_radii_look_alike(store_model: Store) -> None:
    store_model("a", ROBUST, dataset="npz:a/mine.npz", eps="1/3")
    store_model("b", ROBUST, dataset="npz:a/mine.npz", eps="1")
    out = store_model("c", ROBUST, dataset="npz:b/mine.npz", eps="1")
    labels = re.findall(r"\\label\{(.*?)\}", to_latex(build_leaderboard([out])))
    assert len(labels) == len(set(labels)) == 3


def test_every_formula_and_brace_is_closed(store_model: Store) -> None:
    store_model("x{^~", ROBUST, randomised=True)
    store_model("x{^~", ROBUST, norm="l2", eps="0.5")
    out = store_model("seed", ROBUST, seed=1)
    text = to_latex(build_leaderboard([out]))
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert len(labels) == len(set(labels)) == 3
    parser = MathTextParser("path")
    for formula in re.findall(r"(?<!\\)\$.*?(?<!\\)\$", text):
        parser.parse(formula.replace(r"\text", r"\mathrm"))
    assert len(re.findall(r"(?<!\\)\{", text)) == len(re.findall(r"(?<!\\)\}", text))


# BibTeX


def test_every_attack_and_method_has_an_entry_of_the_year_that_its_reference_names() -> None:
    known = entries()
    norms = {"cw-l2": "l2"}
    for entry in ATTACKS:
        if "{" in entry.name or entry.name == "pyautoattack":
            continue
        try:
            attack = ATTACKS.make(
                entry.name, threat=ThreatModel.parse(norms.get(entry.name, "linf"), "8/255"), classes=10
            )
        except AdvdpnpError:
            continue  # needs another norm or an extra that is not installed
        keys = attack_keys(entry.name, describe(attack))
        assert keys, entry.name
        assert set(keys) <= set(known)
        year = re.search(r"20\d\d", entry.reference)
        assert year is None or any(f"year = {{{year[0]}}}" in known[key] for key in keys), entry.name


def test_entries_are_whole() -> None:
    for key, entry in entries().items():
        assert re.match(rf"@(inproceedings|article|misc)\{{{key},\n", entry)
        assert entry.count("{") == entry.count("}")
        assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) = \{", entry, re.MULTILINE))


def test_bibtex_cites_what_the_table_holds_and_says_what_it_does_not_know(store_model: Store) -> None:
    attacks = {"clean": 0.9, "pgd-20": 0.5, "torchattacks:PGD-20": 0.5, "torchattacks:DeepFool": 0.4, "mine": 0.4}
    text = to_bibtex(rows_of(store_model("a", attacks, method="trades", cells={("fog", 1): 0.5})))
    assert r"% pgd-20: \cite{madry2018towards}" in text
    assert r"% torchattacks:DeepFool: \cite{kim2020torchattacks}" in text
    assert "% mine: no entry here; cite its source" in text
    assert re.findall(r"^@\w+\{(\w+),", text, re.MULTILINE) == [
        "madry2018towards", "kim2020torchattacks", "zhang2019theoretically", "hendrycks2019benchmarking",
    ]  # fmt: skip


def test_an_ensemble_is_cited_before_its_stages() -> None:
    stages = tuple(AttackInfo(family, loss, steps) for family, loss, steps in (
        ("apgd", "ce", 100), ("apgd", "dlr-targeted", 100), ("fab", "", 100), ("square", "margin", 5000)
    ))  # fmt: skip
    keys = ["croce2020reliable", "croce2020minimally", "andriushchenko2020square"]
    assert attack_keys("autoattack", AttackInfo(stages=stages)) == keys
    assert attack_keys("apgd-ce", stages[0], "l1") == ["croce2020reliable", "croce2021mind"]


# Model card and RobustBench


def test_the_card_holds_the_table_and_the_same_numbers_as_metadata(store_model: Store) -> None:
    store_model("my_net", ROBUST, method="trades", dataset="cifar10", randomised=True)
    out = store_model("my_net", {"clean": 0.9, "pgd-20": 0.6}, eps="12/255", dataset="cifar10")
    text = to_model_card(build_leaderboard([out]), rows_of(out))
    card = ModelCard(text)
    assert (card.data.datasets, card.data.pipeline_tag) == (["cifar10"], "image-classification")
    name, results = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert name == "my_net"
    found = {each.metric_name: each.metric_value for each in results}
    assert found["AutoAttack, linf 8/255"] == 30
    assert found["PGD-20, linf 12/255"] == 60
    assert "| CIFAR-10 | 200 | linf 8/255 | AutoAttack | 30.00 |" in text
    assert "- `randomised`:" in text
    assert "@inproceedings{croce2020reliable," in text


def test_the_entry_for_robustbench_has_its_keys(store_model: Store) -> None:
    out = store_model("net", {**ROBUST, "cw": 0.29}, n=100, dataset="cifar10")
    store_model("net", ROBUST, n=100, dataset="cifar10", eps="4/255")
    entry = json.loads(to_model_info(rows_of(out)))
    (source,) = (path for path in files("robustbench") or () if path.parts == ("robustbench", "utils.py"))
    fields = source.read_text().partition("class ModelInfo:\n")[2].partition("\n\n")[0]
    assert set(entry) - {"external"} <= set(re.findall(r"^    (\w+): Optional", fields, re.MULTILINE))
    assert (entry["eps"], entry["clean_acc"], entry["autoattack_acc"]) == ("8/255", "90.00", "30.00")
    assert entry["external"] == "29.00"
    assert "100 of the 10,000" in entry["footnote"]
    assert entry["link"] is None


@pytest.mark.parametrize("facts", [{"dataset": "digits"}, {"dataset": "cifar10", "eps": "4/255"}])
def test_no_entry_of_what_robustbench_does_not_rank(store_model: Store, facts: dict[str, str]) -> None:
    out = store_model("net", ROBUST, **facts)
    with pytest.raises(AdvdpnpError, match=r"standard autoattack under a threat model that RobustBench ranks.* none$"):
        to_model_info(rows_of(out))


# The command


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A linear net on digits, attacked, with all images."""
    folder = tmp_path_factory.mktemp("attacked")
    (folder / "nets.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n"
        "    net = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))\n"
        "    weight = torch.randn(10, 1024, generator=torch.Generator().manual_seed(0))\n"
        "    net[1].weight.data.copy_(weight)\n    net[1].bias.data.zero_()\n    return net\n"
    )
    words = ["--dataset", "digits", "--model", f"{folder / 'nets.py'}:make", "--name", "linear", "--limit", "40"]
    out = folder / "results"
    assert run(["eval", *words, "--attacks", "fgsm,pgd-20", "--save-adversarials", "--out", str(out)]) == 0
    return out


def test_npz_and_png_hold_the_images_that_broke_the_model(attacked: Path, tmp_path: Path) -> None:
    (row,) = rows_of(attacked)
    words = [str(attacked), "--attack", "pgd-20", "--out"]
    assert run(["export", "npz", *words, str(tmp_path / "broken.npz")]) == 0
    found = np.load(tmp_path / "broken.npz")
    broken = row.samples[row.misclassified_under("pgd-20") & ~row.clean_wrong]
    assert len(broken) > 0
    assert found["sample"].tolist() == broken.tolist()
    split = load_dataset("digits", train=False).test
    x, y = to_float(split.images[broken]), split.labels[broken]
    assert found["label"].tolist() == y.tolist()
    assert (found["prediction"] != found["label"]).all()
    difference = np.abs(found["x_adv"] - x.numpy())
    assert 0 < difference.max() <= row.threat.eps + 1e-6
    assert run(["export", "png", *words, str(tmp_path / "sheet")]) == 0
    paths = sorted((tmp_path / "sheet").glob("*.png"))
    assert len(paths) == len(broken)
    shown = torch.from_numpy(np.asarray(Image.open(paths[0])))
    assert (shown - found["x_adv"][0, 0] * 255).abs().max() <= 0.5 + 1e-3
    first = f"label-{found['label'][0]}-prediction-{found['prediction'][0]}.png"
    assert paths[0].name.endswith(first)


def test_text_goes_to_standard_output_or_to_a_file(
    attacked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run(["export", "latex", str(attacked), "--columns", "clean, pgd-20"]) == 0
    assert run(["export", "latex", str(attacked), "--attack", "fgsm"]) == 2
    assert run(["export", "bibtex", str(attacked), "--columns", "clean"]) == 2
    text = capsys.readouterr().out
    assert body(text)[0] == ["Model", "Clean", "PGD-20"]
    assert run(["export", "bibtex", str(attacked), "--out", str(tmp_path / "cited.bib")]) == 0
    assert "madry2018towards" in (tmp_path / "cited.bib").read_text()
    assert run(["export", "model-card", str(attacked), "--model", "linear"]) == 0
    assert "model-index:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["latx"], "there is no export called 'latx'; did you mean latex"),
        (["npz"], "images of several attacks are stored here; choose with --attack"),
        (["npz", "--attack", "pgd-20"], "npz writes files; name a file with --out"),
        (["npz", "--attack", "cw"], "no images of 'cw' are stored here"),
        (["model-card", "--model", "linea"], "there are no results of a model called 'linea'; did you mean linear"),
        (["robustbench"], "an entry needs one evaluation by the standard autoattack"),
    ],
)
def test_bad_input_gets_one_sentence(
    attacked: Path, words: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", words[0], str(attacked), *words[1:]]) == 2
    assert why in capsys.readouterr().err


def test_models_and_images_that_are_not_there_are_named(
    store_model: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store_model("a", ROBUST)
    out = str(store_model("b", ROBUST))
    assert run(["export", "model-card", out]) == 2
    assert "results of 2 models; choose one with --model: a, b" in capsys.readouterr().err
    assert run(["export", "npz", out, "--model", "a", "--out", str(tmp_path / "x.npz")]) == 2
    assert "repeat the evaluation with --save-adversarials" in capsys.readouterr().err
    store_model("b", ROBUST, weights="f" * 64)
    assert run(["export", "model-card", out, "--model", "b"]) == 2
    assert "models with different weights are called 'b'" in capsys.readouterr().err
