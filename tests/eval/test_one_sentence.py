"""What a Python caller gets wrong is one sentence with a remedy; what an evaluation returns can be read and saved."""

import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import advdpnp
from advdpnp import cli
from advdpnp.attacks.engine.executor import check_inputs
from advdpnp.base import libraries
from advdpnp.base.errors import AdvdpnpError
from advdpnp.commands import doctor
from advdpnp.commands.listing import catalogue
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.config import EvaluationConfig
from advdpnp.models.sources import hugging_face
from advdpnp.training.recipe import resolve_recipe

N = 12
REPOSITORY = Path(advdpnp.__file__).parent.parent


@pytest.fixture
def x() -> Tensor:
    return torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    linear = nn.Linear(64, 3).double()
    with torch.no_grad():
        linear.weight.copy_(torch.randn(3, 64, generator=torch.Generator().manual_seed(1)))
        linear.bias.zero_()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = linear

        def forward(self, images: Tensor) -> Tensor:
            answer: Tensor = self.linear(images.flatten(1).double() - 0.5)
            return answer

    return Net()


@pytest.fixture
def y(net: nn.Module, x: Tensor) -> Tensor:
    return net(x).argmax(1)


CALLS: list[Callable[..., Any]] = [advdpnp.attack, advdpnp.evaluate, advdpnp.perturb]


@pytest.mark.parametrize("call", CALLS)
def test_an_unknown_option_is_named_with_what_is_meant(
    call: Callable[..., Any], net: nn.Module, x: Any, y: Any
) -> None:
    with pytest.raises(AdvdpnpError, match=f"{call.__name__} has no option 'steps'; write the number .* pgd-3$"):
        call(net, x, y, steps=3)
    with pytest.raises(AdvdpnpError, match="no option 'epsilon'; did you mean eps"):
        call(net, x, y, epsilon=0.1)


@pytest.mark.parametrize("name", [name for name in advdpnp.__all__ if name.islower() and name[0] != "_"])
def test_no_function_answers_an_unknown_option_with_a_type_error(name: str) -> None:
    with pytest.raises(AdvdpnpError, match=f"{name} has no option 'foo'; it has "):
        getattr(advdpnp, name)(foo=1)


@pytest.mark.parametrize("call", CALLS)
def test_labels_beyond_the_classes_are_one_sentence(call: Callable[..., Any], net: nn.Module, x: Any, y: Any) -> None:
    y[3] = 7
    with pytest.raises(
        AdvdpnpError, match=r"label 7 is not a class of the model, which has 3|go up to 7, .* 3 classes"
    ):
        call(net, x, y, eps=0.1)


@pytest.mark.parametrize("call", CALLS)
def test_tensors_and_weights_without_values_are_one_sentence(
    call: Callable[..., Any], net: nn.Module, x: Tensor, y: Tensor
) -> None:
    with pytest.raises(AdvdpnpError, match="the images are on the device meta"):
        call(net, x.to("meta"), y)
    with pytest.raises(AdvdpnpError, match="the labels are on the device meta"):
        call(net, x, y.to("meta"))
    with pytest.raises(AdvdpnpError, match="the model is on the device meta"):
        call(nn.Sequential(nn.Flatten(), nn.Linear(64, 3, device="meta")), x, y)
    with pytest.raises(AdvdpnpError, match=r"lazy layers.* call it once on images"):
        call(nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), x, y)


def test_a_net_that_hides_its_gradient_is_told_of(net: nn.Module, x: Tensor, y: Tensor) -> None:
    class Detached(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            answer: Tensor = net(images).detach()
            return answer

    with pytest.warns(UserWarning, match=r"logits have no gradient.* remove detach"):
        advdpnp.attack(Detached(), x, y, "pgd-2", eps=0.1)
    with pytest.raises(AdvdpnpError, match="logits have no gradient"):
        advdpnp.perturb(Detached(), x, y, "pgd-2", eps=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        advdpnp.attack(net, x, y, "pgd-2", eps=0.1)


def test_an_attack_object_of_a_library_is_answered_with_its_name(net: nn.Module, x: Tensor, y: Tensor) -> None:
    torchattacks = pytest.importorskip("torchattacks")
    for given in (torchattacks.PGD(net), torchattacks.PGD):
        for call in (advdpnp.attack, advdpnp.perturb):
            with pytest.raises(AdvdpnpError, match='write its name, "torchattacks:PGD"'):
                call(net, x, y, given)
        with pytest.raises(AdvdpnpError, match='write its name, "torchattacks:PGD"'):
            advdpnp.evaluate(net, x, y, attacks=[given])


def test_an_attack_that_only_libraries_have_is_found_there(
    net: nn.Module, x: Tensor, y: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers = {"torchattacks": ["DeepFool", "PGD"], "foolbox": ["L2DeepFool", "LinfDeepFoolAttack"]}
    monkeypatch.setattr(libraries, "offered", lambda: offers)  # alike asks it
    theirs = "torchattacks:DeepFool and foolbox:L2DeepFool and foolbox:LinfDeepFoolAttack$"
    with pytest.raises(AdvdpnpError, match=f"called 'deepfool'; libraries have {theirs}"):
        advdpnp.attack(net, x, y, "deepfool")
    with pytest.raises(AdvdpnpError, match=r"did you mean .*pgd-20"):
        advdpnp.attack(net, x, y, "pgd")


def test_the_advice_for_l1_can_be_followed_in_python_and_on_the_command_line(net: nn.Module, x: Any, y: Any) -> None:
    with pytest.raises(AdvdpnpError, match=r"for l1 use apgd-ce, apgd-t, adv-lib:fmn or pyautoattack$"):
        advdpnp.attack(net, x, y, "pgd-2", eps=1, norm="l1")
    if find_spec("pyautoattack"):
        found = advdpnp.evaluate(net, x[:2], y[:2], attacks="pyautoattack", eps=0.01, norm="l1", sanity=False)
        assert "pyautoattack" in found.row


def test_targets_may_be_classes(net: nn.Module, x: Tensor, y: Tensor) -> None:
    targets = (y + 1) % 3
    given = advdpnp.evaluate(net, x, y, attacks="pgd-5", eps=0.06, targets=targets, sanity=False)
    named = advdpnp.evaluate(net, x, y, attacks="pgd-5", eps=0.06, targets="next", sanity=False)
    single = advdpnp.attack(net, x, y, "pgd-5", eps=0.06, targets=targets)
    (label,) = [name for name in given.row if name.startswith("pgd-5 (") and not name.endswith(("_low", "_high"))]
    verdicts = given.verdicts[given.verdicts["attack"] == label].sort_values("sample")
    assert verdicts["success"].tolist() == single.success.tolist()
    assert 0 < single.success.sum() < N
    assert given.row[label].item() == named.row["pgd-5 (targeted: next)"].item()
    with pytest.raises(AdvdpnpError, match="12 images but 3 targets"):
        advdpnp.evaluate(net, x, y, attacks="pgd-5", targets=targets[:3])


def test_an_evaluation_says_what_it_is_and_is_saved(net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path) -> None:
    found = advdpnp.evaluate(
        net, x, y, attacks="fgsm", eps=["0.05", "0.2"], save_adversarials=True, sanity=False, name="mine"
    )
    text = repr(found)
    assert len(text.splitlines()) == 1
    assert text.startswith("Evaluation(mine, linf 0.05: clean 100.00, fgsm ")
    assert "unmeasured" in text
    paths = found.save(tmp_path / "new")
    assert sorted(path.name for path in paths) == [
        "adversarials-fgsm_linf_0.05.npz", "adversarials-fgsm_linf_0.2.npz", "leaderboard.csv", "verdicts.csv",
    ]  # fmt: skip
    assert read_leaderboard(paths[0])["fgsm"].tolist() == found.row["fgsm"].tolist()
    assert len(pd.read_csv(paths[1])) == len(found.verdicts)
    with np.load(paths[-1]) as stored:
        images = found.adversarials["fgsm, linf 0.2"]
        assert np.array_equal(stored["x_adv"], images.x_adv.numpy())
        assert np.array_equal(stored["sample"], images.sample)
    for result in (found, advdpnp.attack(net, x, y, "fgsm", eps=0.1)):
        with pytest.raises(AdvdpnpError, match="save needs the name of a folder, not None"):
            result.save(None)
    (tmp_path / "file").write_text("")
    with pytest.raises(AdvdpnpError, match="cannot write"):
        found.save(tmp_path / "file")


def test_keys_and_lists_that_are_looked_for_elsewhere_are_shown() -> None:
    with pytest.raises(AdvdpnpError, match=r"did you mean optimiser\.lr"):
        resolve_recipe("ce", "digits", {"lr": "0.1"})
    with pytest.raises(AdvdpnpError, match="--norm takes linf, l2, l1 and l0"):
        catalogue("norms")


def test_an_interruption_before_anything_has_begun_promises_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cli._WORKERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert "before anything had begun" in cli._stopped()
    import advdpnp.training.trainer  # noqa: F401

    assert "--resume" in cli._stopped()


def test_the_modules_that_do_the_work_exist() -> None:
    assert all(map(find_spec, cli._WORKERS))


def test_a_name_of_hugging_face_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked: list[Any] = []

    def load(name: str, **options: Any) -> None:
        asked.append(options)
        raise OSError("not here")

    def model_info(self: Any, name: str, timeout: float) -> None:
        asked.append(timeout)
        raise OSError("no network")

    monkeypatch.setattr(hub.HfApi, "model_info", model_info)
    with pytest.raises(OSError, match="no network"):
        hugging_face._local_first(load, "nobody/nothing")
    assert asked == [{"local_files_only": True}, hugging_face._PATIENCE]


def test_a_folder_that_hides_the_package_from_scripts_is_seen_by_the_doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert all(check.ok for check in doctor._folder())
    (tmp_path / "advdpnp" / "advdpnp").mkdir(parents=True)  # as a clone has it
    monkeypatch.setattr(sys, "path", [str(REPOSITORY)])
    assert all(check.ok for check in doctor._folder())
    monkeypatch.setattr(sys, "path", [])  # where an editable install has put nothing
    (check,) = [check for check in doctor._folder() if not check.ok]
    assert "a script here imports the folder advdpnp instead of the package" in check.finding
    assert "mv advdpnp" in check.remedy


def test_a_normalisation_that_the_net_does_not_do_is_given_to_evaluate(net: nn.Module, x: Tensor) -> None:
    class Normalised(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            answer: Tensor = net((images - 0.4) / 0.2)
            return answer

    y = Normalised()(x).argmax(1)

    def clean(**options: Any) -> float:
        return float(advdpnp.evaluate(net, x, y, attacks="none", sanity=False, **options).row["clean"].iloc[0])

    assert clean(mean=0.4, std=[0.2]) == 100
    assert clean(mean=0.9, std=0.2) < 100
    row = advdpnp.evaluate(net, x, y, attacks="none", sanity=False, mean=0.4, std=0.2).row
    assert row["architecture"].tolist() == ["Net"]
    for options, sentence in (
        ({"mean": 0.4}, "mean and std belong together; give both"),
        ({"mean": "gray", "std": 1}, "mean and std are numbers, not 'gray' and 1"),
        ({"mean": [0.1, 0.2], "std": 0.2}, "mean has 2 numbers, and the images have 1 channel; give one number"),
        ({"mean": 0.4, "std": 0}, "std above 0"),
    ):
        with pytest.raises(AdvdpnpError, match=sentence):
            clean(**options)


def test_precisions_may_be_called_as_torch_calls_them(net: nn.Module, x: Tensor, y: Tensor) -> None:
    assert advdpnp.attack(net, x, y, "fgsm", precision="float32").attack == "fgsm"
    columns = advdpnp.evaluate(net, x, y, attacks="fgsm", precision="float32", sanity=False).row
    assert "fgsm" in columns
    assert EvaluationConfig.of(precision="bfloat16").precision == "bf16"
    with pytest.raises(AdvdpnpError, match="no precision called 'float8'"):
        advdpnp.attack(net, x, y, "fgsm", precision="float8")


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (torch.zeros(3, 8, 8), r"images\[None\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), r"images.float\(\) / 255"),
        (torch.full((1, 3, 8, 8), 200.0), "divide them by 255"),
        (torch.full((1, 3, 8, 8), -2.0), "pass unnormalised images"),
    ],
)
def test_what_is_wrong_with_images_has_its_own_remedy(images: torch.Tensor, remedy: str) -> None:
    with pytest.raises(AdvdpnpError, match=remedy):
        check_inputs(images, torch.zeros(len(images), dtype=torch.int64))
