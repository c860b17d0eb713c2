"""Targeted attacks: which targets are chosen, what counts as a success, and agreement with plain loops."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from advdpnp.attacks import ThreatModel
from advdpnp.attacks.algorithms.pgd import PGD
from advdpnp.attacks.criteria import MISCLASSIFIED, Misclassified, Targeted, criterion_of
from advdpnp.attacks.engine.verification import decide
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.info import describe
from advdpnp.attacks.names import resolve_attacks
from advdpnp.attacks.protocol import ATTACKS, TARGETABLE, TargetableAttack, aim
from advdpnp.base.errors import AdvdpnpError

LEAST = Targeted("least-likely")


def test_rules_choose_a_class_that_is_not_the_label():
    logits, y, sample = torch.randn(500, 7), torch.arange(500) % 7, torch.arange(500)
    least, later, chance = (Targeted(rule).goal(logits, y, sample, 0) for rule in ("least-likely", "next", "random"))
    for goal in (least, later, chance):
        assert bool((goal != y).all())
        assert 0 <= int(goal.min()) <= int(goal.max()) <= 6
    for row in range(20):
        others = [each for each in range(7) if each != y[row]]
        assert int(least[row]) == min(others, key=lambda each: float(logits[row, each]))
    assert torch.equal(later, (y + 1) % 7)
    assert set(((chance - y) % 7).tolist()) == {1, 2, 3, 4, 5, 6}
    order = torch.randperm(500)
    assert torch.equal(Targeted("random").goal(logits[order], y[order], sample[order], 0), chance[order])
    assert not torch.equal(Targeted("random").goal(logits, y, sample, 1), chance)


def test_labels_are_the_targets_of_their_samples():
    criterion = Targeted.of([2, 0, 1])
    assert criterion.goal(torch.zeros(2, 3), torch.zeros(2).long(), torch.tensor([2, 0]), 0).tolist() == [1, 2]
    assert criterion.definition() == {"targets": [2, 0, 1]}
    with pytest.raises(AdvdpnpError, match="the targets must be classes of the model, which has 2"):
        criterion.goal(torch.zeros(1, 2), torch.zeros(1).long(), torch.zeros(1).long(), 0)
    with pytest.raises(AdvdpnpError, match="no targets called 'likely'; choose least-likely, random, next"):
        Targeted("likely")


def test_a_tie_of_votes_never_helps_a_targeted_attack_and_never_breaks_a_label():
    runs = torch.zeros(2, 1, 3)
    runs[0, 0, 1], runs[1, 0, 2] = 5, 5  # one vote for class 1, one for class 2
    goal = torch.tensor([1])
    assert int(decide(runs, goal).prediction) == 1
    assert int(decide(runs, goal, LEAST).prediction) == 2
    runs[1, 0, 1] = 6
    assert int(decide(runs, goal, LEAST).prediction) == 1
    assert float(decide(runs, goal, LEAST).margin) < 0 < float(decide(runs, goal).margin)


def test_definitions_of_untargeted_attacks_have_no_new_key_and_names_say_targets():
    threats = {norm: ThreatModel.parse(norm, 0.1) for norm in ("linf", "l2")}
    for name in (*(each.replace("N", "20") for each in TARGETABLE), "autoattack", "square", "apgd-t", "mm-5"):
        plain = ATTACKS.make(name, threat=threats["l2"], classes=10)
        assert "targets" not in str(plain.definition())
        assert criterion_of(plain) == Misclassified() == MISCLASSIFIED
        assert describe(plain).targets == ""
        if name in ("autoattack", "square", "apgd-t", "mm-5"):
            with pytest.raises(AdvdpnpError, match=r"aim at targets; fgsm, pgd-N, cw|chooses its own targets"):
                aim(plain, LEAST)
            continue
        aimed = aim(plain, LEAST)
        assert aimed.name == f"{name} (targeted: least-likely)"
        assert aimed.definition()["targets"] == "least-likely"
        assert describe(aimed).targets == "least-likely"
        assert describe(aimed).family == describe(plain).family != ""
    named = [entry.name for entry in ATTACKS if "{" not in entry.name]
    able = [
        name for name in named if isinstance(ATTACKS.make(name, threat=threats["l2"], classes=10), TargetableAttack)
    ]
    assert {*able, "pgd-N"} == {*TARGETABLE, "apgd-t", "mm-plus"}
    with pytest.raises(AdvdpnpError, match="the loss 'kl' knows no classes"):
        aim(PGD(threats["l2"], objective="kl"), LEAST)


@pytest.mark.parametrize("objective", ["ce", "margin"])
def test_targeted_pgd_is_a_plain_descent_to_the_target(make_net, find, images, objective):
    """float64 throughout the oracle, a net that computes in float64: no sign depends on rounding."""
    net = make_net(10).double()

    class Double(nn.Module):
        def forward(self, x):
            return net(x.double())

    eps, step = 0.2, 0.05
    y = Double()(images).argmax(1).detach()
    attack = aim(PGD(ThreatModel("linf", eps, "0.2"), 5, step, objective, random_start=False), Targeted("next"))
    found = find(Double(), attack, images, y)
    target = (y + 1) % 10
    x_adv, reached, first = images.clone(), torch.zeros(60).bool(), images.clone()
    for _ in range(6):
        leaf = x_adv.clone().requires_grad_()
        out = Double()(leaf)
        hit = (out.argmax(1) == target) & ~reached
        first[hit] = x_adv[hit]
        reached |= hit
        if objective == "ce":
            loss = -out.log_softmax(1).gather(1, target[:, None]).sum()
        else:
            own = out.gather(1, target[:, None])[:, 0]
            loss = (out.scatter(1, target[:, None], -torch.inf).amax(1) - own).sum()
        (gradient,) = torch.autograd.grad(loss, leaf)
        x_adv = (images + (x_adv - step * gradient.sign() - images).clamp(-eps, eps)).clamp(0, 1)
    assert torch.equal(found.success, reached)
    assert 0 < int(reached.sum()) < 60
    assert torch.equal(found.adversarial_prediction[reached], target[reached])
    assert torch.allclose(found.x_adv[reached], first[reached], atol=1e-6)
    assert torch.equal(found.x_adv[~reached], images[~reached])
    assert torch.equal(found.label, y)


@pytest.mark.parametrize(
    ("name", "norm", "eps"),
    [("pgd-20", "linf", 0.2), ("apgd-ce", "linf", 0.2), ("apgd-dlr", "linf", 0.2), ("fab-t", "linf", 0.2),
     ("cw", "l2", 3), ("apgd-ce", "l2", 3), ("fab-t", "l2", 3), ("cw-l2", "l2", 3)],
)  # fmt: skip
def test_a_targeted_success_is_an_image_within_eps_that_is_taken_for_the_target(
    attack, find, rounded, net, images, name, norm, eps
):
    model = rounded(net)
    with torch.no_grad():
        logits = model(images[:16])
    y = logits.argmax(1)
    plain = attack(name, eps, norm)
    plain = replace(plain, **({"searches": 3, "iterations": 40} if name == "cw-l2" else {}))
    aimed = aim(plain, Targeted("next"))
    found = find(model, aimed, images[:16], y)
    target = (y + 1) % 10
    with torch.no_grad():
        predicted = model(found.x_adv).argmax(1)
    assert torch.equal(predicted == target, found.success)
    assert int(found.success.sum()) >= 2
    assert bool(aimed.threat.contains(images[:16], found.x_adv)[found.success].all())
    assert bool((found.margin[found.success] < 0).all())


@pytest.mark.parametrize(("name", "slack"), [("cw-l2", 1.25), ("fab-t", 1.25)])
def test_minimum_norms_of_a_linear_model_are_near_the_closed_form(attack, find, name, slack):
    """With three classes the nearest image of the target lies on a half-space, or where two of them meet."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])

    class Plane(nn.Module):
        def forward(self, x):
            return x.flatten(1) @ weight.to(x).T

    x = torch.tensor([[0.62, 0.5], [0.7, 0.5]])[:, :, None, None].clone()
    x = x.reshape(2, 1, 1, 2)
    y = torch.zeros(2).long()
    found = find(Plane(), aim(attack(name, 1.0, "l2", 3), Targeted.of([1, 1])), x, y)
    exact = (x[:, 0, 0, 0] - x[:, 0, 0, 1]).double() / 2**0.5
    assert bool(found.success.all())
    assert bool((found.norm >= exact - 1e-6).all())
    assert bool((found.norm <= slack * exact + 1e-3).all())


def test_clean_images_that_are_taken_for_the_target_are_successes_and_other_mistakes_are_attacked(
    find, attack, net, images
):
    with torch.no_grad():
        predicted = net(images).argmax(1)
    y = (predicted + 1) % 10  # every clean image is a mistake
    target = predicted.clone()
    target[10:] = (predicted[10:] + 2) % 10
    found = find(net, aim(attack("pgd-5", 1e-6), Targeted.of(target.tolist())), images, y)
    assert found.success.tolist() == [True] * 10 + [False] * 50
    assert bool((found.norm[:10] == 0).all())
    assert bool((found.backwards[10:] > 0).all())
    assert torch.equal(found.clean_prediction, predicted)
    assert torch.equal(found.adversarial_prediction, predicted)


def test_targets_hold_in_ensembles_and_under_averaged_gradients(attack, find, net, images, labels):
    from advdpnp.attacks.algorithms.eot import ExpectationOverTransformation

    stages = [aim(attack(name, 0.05), Targeted("next")) for name in ("pgd-5", "apgd-dlr")]
    found = find(net, AttackEnsemble("two", tuple(stages)), images, labels)
    assert bool((found.adversarial_prediction == (labels + 1) % 10)[found.success].all())
    with pytest.raises(ValueError, match="share one criterion"):
        AttackEnsemble("mixed", (stages[0], attack("apgd-ce", 0.05)))
    averaged = replace(stages[0], name="averaged")
    assert criterion_of(ExpectationOverTransformation(averaged, 2)) == Targeted("next")


def test_untargeted_attacks_still_run_by_name(attack):
    ((label, plain),) = resolve_attacks("pgd-3", ThreatModel.parse("linf", 0.1), 10)
    assert label == "pgd-3"
    assert plain.criterion is MISCLASSIFIED
