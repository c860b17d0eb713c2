"""Nets that do what nets should not: each is judged rightly, flagged, or refused in one sentence."""

import math
import os
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

import advdpnp
from advdpnp.attacks.engine.executor import Executor, evaluation_mode
from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.api import evaluate_models
from advdpnp.eval.store.reader import find_results
from advdpnp.models.loading import as_loaded


class Normalised(nn.Module):
    """A linear net that normalises its images, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.linear = nn.Linear(27, 4)
        with torch.no_grad():
            self.linear.weight.copy_(torch.randn(4, 27, generator=generator))
        self.in_place = in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.sub_(0.4).div_(0.3) if self.in_place else (x - 0.4) / 0.3
        return self.linear(x.flatten(1))


class BatchMean(Normalised):
    """Subtracts the mean of its batch, as BatchNorm without running statistics does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(70, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, Normalised(False)(x).argmax(1)


def test_a_net_that_writes_into_its_input_is_judged_as_one_that_does_not(images):
    x, y = images
    before = x.clone()
    tables = []
    for in_place in (False, True):
        net = Normalised(in_place)
        net.linear.bias.data.zero_()
        result = advdpnp.evaluate(net, x, y, eps=0.05, attacks="fgsm,pgd-5,torchattacks:PGD")
        assert result.row["flags"].item() == ""
        tables.append(result.verdicts[["attack", "sample", "success", "norm", "margin"]])
    assert tables[0].equals(tables[1])
    assert torch.equal(x, before)


class OwnBuffer(Normalised):
    """Answers in a buffer of its own, which its next call overwrites."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        if torch.is_grad_enabled():
            return logits
        self.__dict__.setdefault("kept", torch.empty(1024, logits.shape[1]))
        return self.__dict__["kept"][: len(logits)].copy_(logits)


def test_a_net_that_answers_in_its_own_buffer_is_judged_as_one_that_does_not(images):
    x, _ = images
    net = OwnBuffer(False)
    expected = Normalised.forward(net, x).detach()
    executor = Executor(net, 16, "cpu")
    torch.testing.assert_close(executor.logits(x), expected)  # five chunks
    with torch.no_grad():
        answers = [executor.searched_logits(part) for part in x[:64].split(16)]
    torch.testing.assert_close(torch.cat(answers), expected[:64])


class Leaves(Normalised):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise GeneratorExit("gone")


class NoMode(Normalised):
    def train(self, mode: bool = True):
        raise RuntimeError("no modes here")


@pytest.mark.parametrize(("kind", "words"), [(Leaves, "gone"), (NoMode, "no modes here")])
def test_what_a_net_raises_is_one_sentence(kind, words, images):
    with pytest.raises(AdvdpnpError, match=words):
        advdpnp.evaluate(kind(False), *images, eps=0.05, attacks="fgsm")


THREADS = """
import torch, advdpnp
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.Flatten(), nn.Linear(512, 4))
    def forward(self, x):
        torch.set_num_threads(2)
        return self.body(x)
torch.set_num_threads(2)
net, x = Net(), torch.rand(64, 1, 8, 8)
advdpnp.evaluate(net, x, net(x).argmax(1), eps=0.05, attacks="pgd-5", sanity=False)
"""


def test_a_net_that_chooses_its_threads_does_not_stop_a_forked_search():
    subprocess.run([sys.executable, "-c", THREADS], check=True, timeout=120, env={**os.environ, "OMP_NUM_THREADS": "2"})


def test_two_threads_on_one_net_are_refused(images):
    x, y = images
    net = Normalised(False)
    said = []

    def second() -> None:
        try:
            advdpnp.evaluate(net, x, y, eps=0.05, attacks="fgsm")
        except AdvdpnpError as error:
            said.append(str(error))

    with evaluation_mode(net):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "another thread evaluates this model" in said[0]
    second()
    assert len(said) == 1


def test_rounding_beyond_the_bounds_is_clipped_and_more_is_told_exactly(images):
    x, y = images
    x = x.clone()
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 1 + 1e-7, -3e-8
    assert advdpnp.evaluate(Normalised(False), x, y, eps=0.05, attacks="fgsm").row["n"].item() == 70
    x[0, 0, 0, 0] = 1.00001
    with pytest.raises(AdvdpnpError, match=r"to 1\.00001"):
        advdpnp.evaluate(Normalised(False), x, y, eps=0.05, attacks="fgsm")


def test_a_net_that_looks_at_its_whole_batch_is_flagged(images):
    x, y = images
    assert "batch-dependent" in advdpnp.evaluate(BatchMean(False), x, y, eps=0.05, attacks="fgsm").row["flags"].item()
    three = advdpnp.evaluate(BatchMean(False), x[:3], y[:3], eps=0.05, attacks="fgsm")
    assert "batch-dependent" in three.row["flags"].item()


class Failing(nn.Module):
    """Right forward, wrong backward."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return 1 // 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.Function.apply(x).flatten(1)[:, :4]


class Whole(Normalised):
    """Whole numbers for logits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).round().long()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Failing, "fails when it is differentiated: integer division"),
        (lambda: Whole(False), "float logits"),
        (lambda: lambda x: x, r"must return logits \(n, classes\)"),
        (lambda: "runs/x", "must be a torch.nn.Module or a function of images, not str"),
    ],
)
def test_nets_that_cannot_be_attacked_are_refused(make, said, images):
    with pytest.raises(AdvdpnpError, match=said):
        advdpnp.evaluate(make(), *images, eps=0.05, attacks="fgsm")


@pytest.mark.parametrize("values", [{"seed": -1}, {"seed": 2**63}, {"batch_size": 0}, {"attacks": f"pgd-{10**20}"}])
def test_numbers_out_of_range_are_refused(values, images):
    with pytest.raises(AdvdpnpError):
        advdpnp.evaluate(Normalised(False), *images, eps=0.05, **{"attacks": "fgsm", **values})


def test_norms_of_the_verdicts_are_within_eps_or_infinite(images):
    verdicts = advdpnp.evaluate(Normalised(False), *images, eps=0.05, attacks="fgsm").verdicts
    attacked = verdicts[verdicts["attack"] == "fgsm"]
    assert (attacked.loc[attacked["success"], "norm"] <= 0.05 + 1e-6).all()
    assert attacked.loc[~attacked["success"], "norm"].map(math.isinf).all()


class Failing(Normalised):
    """Does something else after so many calls."""

    def __init__(self, after: int, what: str) -> None:
        super().__init__(False)
        self.after, self.what, self.calls = after, what, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls <= self.after:
            return super().forward(x)
        if self.what == "exit":
            raise SystemExit(0)
        raise RuntimeError("boom")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("exit", "forward pass fails: 0"),
        ("raise", "forward pass fails: boom"),
    ],
)
def test_a_net_that_fails_late_is_named(images, what, sentence, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with pytest.raises(AdvdpnpError, match=f"a net: .*{sentence}"):
            advdpnp.evaluate(Failing(40, what), *images, eps=0.01, attacks="square", name="a net")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("after", range(12))
def test_a_net_that_leaves_early_is_no_success(images, after):
    with pytest.raises(AdvdpnpError, match="fails"):
        advdpnp.evaluate(Failing(after, "exit"), *images, eps=0.01, attacks="fgsm")


class Detached(nn.Sequential):
    """Hides its gradient by mistake."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.detach())


class Turned(nn.Sequential):
    """Gives the opposite of its gradient by mistake; its logits are right."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits = super().forward(x)
        return 2 * logits.detach() - logits


@pytest.mark.parametrize("broken", [Detached, Turned])
def test_a_net_whose_gradient_was_mended_is_searched_again(tmp_path, data, net, broken, caplog):
    hidden, mended = broken(*net()), net()
    options = {"attacks": "fgsm", "eps": ["0.05"], "save_adversarials": True}
    masked = evaluate_models([as_loaded(hidden, "net")], data, out=tmp_path / "a", **options)
    again = evaluate_models([as_loaded(hidden, "net")], data, out=tmp_path / "a", **options)  # nothing has changed
    assert not caplog.records
    found = evaluate_models([as_loaded(mended, "net")], data, out=tmp_path / "a", **options)
    assert "has other gradients than when its stored verdicts were found" in caplog.text
    fresh = evaluate_models([as_loaded(mended, "net")], data, out=tmp_path / "b", **options)
    assert masked["fgsm"].tolist() == again["fgsm"].tolist() != found["fgsm"].tolist() == fresh["fgsm"].tolist()
    assert found["flags"].tolist() == fresh["flags"].tolist()


def test_verdicts_that_do_not_tell_their_gradients_are_named(tmp_path, data, net, edit_index, caplog):
    options = {"attacks": "cw", "eps": ["0.05"], "sanity": False, "out": tmp_path}
    before = evaluate_models([as_loaded(Turned(*net()), "net")], data, **options)
    (index,) = tmp_path.rglob("units.json")
    edit_index(index, lambda content: [run.pop("gradients", None) for run in content["runs"]])  # an earlier release
    after = evaluate_models([as_loaded(net(), "net")], data, **options)
    assert "net: verdicts of cw are of an earlier release" in caplog.text
    assert before["cw"].tolist() == after["cw"].tolist()
    caplog.clear()
    own = replace(as_loaded(net(), "net"), header={"format": 1})  # of this project's code
    evaluate_models([own], data, **options)
    assert not caplog.records


def test_attacks_that_are_not_asked_for_again_do_not_keep_verdicts_of_other_gradients(tmp_path, data, net):
    evaluate_models([as_loaded(Turned(*net()), "net")], data, out=tmp_path, attacks="cw", eps=["0.05"], sanity=False)
    evaluate_models([as_loaded(net(), "net")], data, out=tmp_path, attacks="fgsm", eps=["0.05"], sanity=False)
    assert {unit.label for unit in find_results([tmp_path])} == {"clean", "fgsm"}


def test_the_gradient_of_one_image_deletes_nothing(tmp_path, data, net):
    options = {"eps": ["0.05"], "sanity": False, "limit": 1, "out": tmp_path}
    evaluate_models([as_loaded(Turned(*net()), "net")], data, attacks="cw", **options)
    evaluate_models([as_loaded(net(), "net")], data, attacks="fgsm", **options)
    assert {unit.label for unit in find_results([tmp_path])} == {"clean", "cw", "fgsm"}
