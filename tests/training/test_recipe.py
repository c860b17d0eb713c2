"""Recipes: layers, overrides, and what is said of wrong ones."""

import re

import pytest
import yaml

from advdpnp.base.errors import AdvdpnpError
from advdpnp.training.methods.base import build_method
from advdpnp.training.recipe import recipe_files, resolve_recipe


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
        ({"settings": ["epoch=3"]}, "epoch = 3: there is no such value"),
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
        ({"name": "adv-dpnp", "betta": 1}, "betta = 1: there is no such value"),
        ({"name": "adv-dpnp", "beta": "much"}, "beta = 'much'"),
        ({"name": "adv-dpnp", "consistency": "l2"}, "'kl' or 'mse'"),
    ],
)
def test_wrong_methods_are_one_sentence(values, message):
    with pytest.raises(AdvdpnpError, match=re.escape(message)):
        build_method(values)


def test_broken_yaml_is_one_sentence(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("a: [1,\nb: 2")
    with pytest.raises(AdvdpnpError, match="is not YAML"):
        resolve_recipe(str(path), "digits")
    path.write_text("- a list")
    with pytest.raises(AdvdpnpError, match="key: value"):
        resolve_recipe(str(path), "digits")


@pytest.mark.parametrize(("written", "meant"), [("32", "32-true"), (64, "64-true"), ("bf16", "bf16-mixed")])
def test_precision_may_be_written_short(written, meant):
    assert resolve_recipe("ce", "digits", {"precision": written}).precision == meant
