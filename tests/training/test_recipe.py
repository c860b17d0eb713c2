"""Recipes: layers, overrides, and what is said of wrong ones."""

import os
import re

import pytest
import yaml

from advdpnp.base.errors import AdvdpnpError
from advdpnp.training.methods.base import build_method
from advdpnp.training.recipe import recipe_files, resolve_recipe
from advdpnp.training.recipe_keys import recipe_keys


@pytest.mark.parametrize("name", recipe_files())
@pytest.mark.parametrize(
    "dataset", ["digits", "cifar10", "cifar100", "svhn", "flowers102", "mnist", "fashion-mnist", "npz:own.npz"]
)
def test_every_recipe_resolves_for_every_data_set(name, dataset):
    recipe = resolve_recipe(name, dataset)
    assert recipe.description
    build_method(recipe.method)


@pytest.mark.parametrize("name", ["dpp", "dpnp", "dpnp-paper", "adv-dpnp", "ed-wta"])
def test_recipes_of_the_papers_say_of_each_value_where_it_comes_from(name):
    lines = recipe_files()[name].read_text().splitlines()
    values = [line for line in lines if re.match(r"\s+\w+: ", line) and "name:" not in line]
    assert values
    assert all(re.search(r"# (paper|choice)", line) for line in values)


def test_later_layers_win(tmp_path):
    assert resolve_recipe("ce", "digits").attack.eps == "0.1"
    assert resolve_recipe("ce", "cifar10").attack.eps == "8/255"
    recipe = resolve_recipe(
        "adv-dpnp", "digits", {"attack.eps": "0.2", "epochs": None}, ["method.beta=3", "model.feature_dim=null"]
    )
    assert (recipe.attack.eps, recipe.method["beta"], recipe.model.feature_dim) == ("0.2", 3, None)
    own = tmp_path / "mine.yaml"
    own.write_text("method: {name: ce}\nepochs: 3\nattack: {eps: 0.05}\n")
    assert (resolve_recipe(str(own), "digits").epochs, resolve_recipe(str(own), "digits").attack.eps) == (3, "0.05")


def test_a_resolved_recipe_reads_back_the_same(tmp_path):
    recipe = resolve_recipe("adv-dpnp", "digits", settings=["attack.eps=0.3"])
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    assert resolve_recipe(str(tmp_path / "recipe.yaml"), "other") == recipe
    assert yaml.safe_load(recipe.to_yaml())["attack"]["eps"] == "0.3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"recipe": "adv-dnp"}, "did you mean adv-dpnp"),
        ({"recipe": "missing.yaml"}, "cannot read"),
        ({"settings": ["epochs"]}, "write it as key=value"),
        ({"settings": ["epoch=3"]}, "epoch = 3: there is no such value; did you mean epochs"),
        ({"settings": ["model.normalize=false"]}, "did you mean model.normalise"),
        ({"settings": ["zzz=false"]}, "see `advdpnp list recipe-keys`"),
        ({"settings": ["epochs=0"]}, "epochs = 0"),
        ({"settings": ["epochs=many"]}, "epochs = 'many'"),
        ({"settings": ["epochs.x=1"]}, "'epochs' has no values of its own"),
        ({"settings": ["optimiser.schedule=linear"]}, "one-cycle"),
        ({"settings": ["method=ce"]}, "method = 'ce'"),
    ],
)
def test_wrong_recipes_are_one_sentence(arguments, message):
    with pytest.raises(AdvdpnpError, match=re.escape(message)) as caught:
        resolve_recipe(**{"recipe": "ce", "dataset": "digits", **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "names no method"),
        ({"name": "adv-dnp"}, "did you mean adv-dpnp"),
        ({"name": "adv-dpnp", "betta": 1}, "betta = 1: there is no such value; did you mean beta"),
        ({"name": "adv-dpnp", "beta": "much"}, "beta = 'much'"),
        ({"name": "adv-dpnp", "consistency": "l2"}, "'kl' or 'mse'"),
        ({"name": "ed-wta", "label_smoothing": 0.1}, "label_smoothing = 0.1: smoothed targets would repel prototypes"),
    ],
)
def test_wrong_methods_are_one_sentence(values, message):
    with pytest.raises(AdvdpnpError, match=re.escape(message)):
        build_method(values)


NESTED = "\n".join([f"a0: &a0 [{'x, ' * 9}]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 12))])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("method: {name: ce}\nepochs: 1\nepochs: 2", "has the key 'epochs' twice (line 3)"),
        (NESTED, "more than 20,000 values"),
        ("a: &a [*a]", "nested too deeply"),
        ("a: &a {b: 1}\nc: {<<: *a}", "merges mappings with <<"),
        ("epochs: " + "9" * 5000, "5000 digits"),
        ("# " + "x" * 300_000, "bytes, more than"),
        ("method: {name: ce}\noptimiser: {lr: 1.0e+300}", "optimiser.lr = 1e+300"),
        ("method: {name: ce}\nattack: {steps: 1000000000000000000000}", "attack.steps = 1000000000000000000000"),
        ("method: {name: ce}\ndescription: " + "x" * 100_000, "description = 'xxx"),
        ("method: {name: ce}\n" + "y" * 1_000 + ": 1", "there is no such value"),
    ],
)
def test_recipes_of_strangers_are_bounded(tmp_path, text, why):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(AdvdpnpError, match=re.escape(why)) as caught:
        resolve_recipe(str(path), "digits")
    assert len(str(caught.value)) < 1000


def test_a_pipe_is_no_recipe(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(AdvdpnpError, match="no regular file"):
        resolve_recipe(str(tmp_path / "pipe.yaml"), "digits")


def test_broken_yaml_is_one_sentence(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1,\nb: 2")
    with pytest.raises(AdvdpnpError, match="is not YAML"):
        resolve_recipe(str(path), "digits")
    path.write_text("- a list")
    with pytest.raises(AdvdpnpError, match="key: value"):
        resolve_recipe(str(path), "digits")


def test_the_optimiser_may_be_spelt_as_torch_does(tmp_path):
    (tmp_path / "own.yaml").write_text("method: {name: ce}\noptimizer: {lr: 0.3, momentum: 0.5}\n")
    found = resolve_recipe(str(tmp_path / "own.yaml"), "digits", {"optimizer.clip": 1.0}, ["optimizer.lr=0.2"])
    assert (found.optimiser.lr, found.optimiser.momentum, found.optimiser.clip) == (0.2, 0.5, 1.0)
    assert "optimizer" not in found.to_yaml()
    (tmp_path / "both.yaml").write_text("optimizer: {lr: 0.3}\noptimiser: {momentum: 0.5}\n")
    with pytest.raises(AdvdpnpError, match="has both 'optimizer' and 'optimiser', which are the same; keep one"):
        resolve_recipe(str(tmp_path / "both.yaml"), "digits")


def test_a_recipe_builds_on_another(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: trades\nmethod: {beta: 2}\nattack: {steps: 3}\n")
    mine = resolve_recipe(str(tmp_path / "mine.yaml"), "digits")
    assert mine.method == {"name": "trades", "beta": 2, "inner_objective": "kl"}
    assert (mine.attack.steps, mine.attack.eps, mine.epochs) == (3, "0.1", 15)
    folder = tmp_path / "below"
    folder.mkdir()
    (folder / "more.yaml").write_text("extends: ../mine.yaml\nepochs: 2\n")
    assert resolve_recipe(str(folder / "more.yaml"), "digits") == mine.model_copy(update={"epochs": 2})
    (tmp_path / "other.yaml").write_text("extends: trades\nmethod: {name: mart}\n")
    assert resolve_recipe(str(tmp_path / "other.yaml"), "digits").method == {"name": "mart"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: own.yaml", "extends itself"),
        ("extends: pdg-at", "did you mean pgd-at"),
        ("extends: [a, b]", "extends ['a', 'b']; name one recipe"),
        ("extends: missing.yaml", "cannot read"),
    ],
)
def test_what_cannot_be_extended_is_one_sentence(text, message, tmp_path):
    (tmp_path / "own.yaml").write_text(f"{text}\nmethod: {{name: ce}}\n")
    with pytest.raises(AdvdpnpError, match=re.escape(message)):
        resolve_recipe(str(tmp_path / "own.yaml"), "digits")


def test_every_key_has_a_default_a_range_and_a_meaning():
    keys = recipe_keys()
    assert all(key.range and key.meaning for key in keys)
    assert all(key.default for key in keys if key.key != "method.name")
    found = {key.key: key for key in keys}
    assert set(_flat(resolve_recipe("ce", "none").model_dump())) <= set(found)
    assert (found["epochs"].default, found["epochs"].range) == ("30", "at least 1 and at most 1000000")
    assert (found["model.normalise"].range, found["awp"].default) == ("true, false", "null")
    assert found["optimiser.momentum"].range == "at least 0 and below 1"
    assert found["optimiser.schedule"].range.startswith("one-cycle, cosine")
    betas = {key.meaning.partition(":")[0]: key.default for key in keys if key.key == "method.beta"}
    assert betas == {"adv-dpnp": "1.0", "ed-wta": "1.0", "mart": "5.0", "trades": "6.0"}
    for key in keys:  # a default that the key's own list takes back
        if not key.key.startswith("method."):
            resolve_recipe("ce", "none", settings=[f"{key.key}={key.default}"])


def _flat(values: dict, prefix: str = "") -> list[str]:
    found = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, dict) else [name]
    return found


@pytest.mark.parametrize(("written", "meant"), [("32", "32-true"), (64, "64-true"), ("bf16", "bf16-mixed")])
def test_precision_may_be_written_short(written, meant):
    assert resolve_recipe("ce", "digits", {"precision": written}).precision == meant
