"""MM, MALT's order, PMA and their ensembles: against plain loops and against models whose nearest boundary is known."""

from dataclasses import fields, replace

import pytest
import torch
from torch import nn

from advdpnp.attacks import ATTACKS, ThreatModel
from advdpnp.attacks.algorithms.apgd import APGD, TARGETED_MARGIN
from advdpnp.attacks.algorithms.margins.malt import MaltOrder, in_order
from advdpnp.attacks.algorithms.margins.pma import PMA, log_odds, margin_of
from advdpnp.attacks.criteria import Targeted, likely_targets
from advdpnp.attacks.ensemble import AttackEnsemble
from advdpnp.attacks.info import describe
from advdpnp.attacks.norms import random_start
from advdpnp.attacks.protocol import aim
from advdpnp.base.randomness import Draw

NORMS = {"linf": 0.03, "l2": 0.4}
NAMES = ("mm-3", "mm-plus", "malt", "pma", "quick", "strong")


def smooth(classes, seed=0):
    """A net without kinks in float64: no sign of its gradient hangs on rounding."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, classes)).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.7)
    return net


def some_images(count, seed=1):
    return 0.2 + 0.6 * torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))


def told(net, attack, state):
    """One iteration: ask, evaluate, tell."""
    queries, objective = attack.ask(state)
    leaf = queries.detach().requires_grad_()
    logits = net(leaf)
    (gradient,) = torch.autograd.grad(objective(logits).sum(), leaf)
    return attack.tell(state, logits.detach(), gradient, torch.zeros_like(state.done))


def short(attack, steps=12):
    """The same attack with few steps."""
    if isinstance(attack, AttackEnsemble):
        return replace(attack, stages=tuple(short(stage, steps) for stage in attack.stages))
    if isinstance(attack, MaltOrder):
        return replace(attack, attack=short(attack.attack, steps))
    lengths = {"iterations", "steps", "queries"} & {field.name for field in fields(attack)}
    return replace(attack, **dict.fromkeys(lengths, steps))


def plain_pma(net, x, y, start, restart, eps, norm, targeted):
    """The published loop for one image: probabilities, float64, one step after the other."""
    x_adv, steps = start, 100
    iterates = [x_adv]
    for i in range(steps):
        leaf = x_adv.clone().requires_grad_()
        p = net(leaf[None])[0].softmax(0)
        p_y, p_m = p[y], torch.cat([p[:y], p[y + 1 :]]).max()
        if i == 0:
            loss = p_y
        elif i < 50:
            loss = p_m if restart else -p_y
        else:
            loss = p_m - p_y
        (gradient,) = torch.autograd.grad(-loss if targeted else loss, leaf)
        phase = (i - 51) / 50 if i > 50 else (i - 1) / 50
        size = 2 * eps * 0.5 * (1 + torch.cos(torch.tensor(phase * torch.pi, dtype=torch.float64)))
        direction = gradient.sign() if norm == "linf" else gradient / gradient.norm()
        delta = x_adv + size * direction - x
        delta = delta.clamp(-eps, eps) if norm == "linf" else delta * min(1, eps / delta.norm())
        x_adv = (x + delta).clamp(0, 1)
        iterates.append(x_adv)
    return iterates


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("classes", "targeted"), [(2, False), (5, False), (5, True), (100, False)])
def test_pma_takes_the_steps_of_the_published_loop_on_probabilities(norm, classes, targeted):
    net, x = smooth(classes), some_images(2).double()
    y = net(x).argmax(1) if not targeted else (net(x).argmax(1) + 1) % classes
    threat = ThreatModel.parse(norm, NORMS[norm])
    attack, draw = PMA(threat), Draw.of(5, torch.arange(2))
    attack = aim(attack, Targeted("next")) if targeted else attack
    state = attack.start(x, y, None, draw)
    for restart in (0, 1):
        first = random_start(x, threat, draw, torch.full_like(y, restart))
        oracle = [plain_pma(net, x[i], int(y[i]), first[i], restart, threat.eps, norm, targeted) for i in range(2)]
        for step in range(101):
            expected = torch.stack([rows[step] for rows in oracle])
            torch.testing.assert_close(state.x_adv, expected, atol=1e-6, rtol=0, msg=f"restart {restart} step {step}")
            if bool(state.done.all()):
                break
            state = told(net, attack, state)
    assert bool(state.done.all())
    assert step == 100  # the engine evaluates the last image


def test_the_margin_of_probabilities_keeps_its_direction_where_probabilities_underflow():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 6, generator=generator, dtype=torch.float64) * 150  # p down to 1e-300, not yet 0
    y = logits.argmax(1)
    p = logits.softmax(1)
    true = torch.zeros_like(logits)
    for row, own in enumerate(y.tolist()):
        other = int(p[row].index_fill(0, torch.tensor(own), -1).argmax())
        for j in range(6):  # a sum of small terms takes the place of 1 - p, which rounds to 0
            rest = p[row].index_fill(0, torch.tensor(j), 0).sum()
            true[row, j] = p[row, other] * (rest if j == other else -p[row, j])
            true[row, j] -= p[row, own] * (rest if j == own else -p[row, j])
    ours = logits.float().requires_grad_()
    rounded = logits.float().requires_grad_()
    q = rounded.softmax(1)
    (naive,) = torch.autograd.grad((q.scatter(1, y[:, None], 0).amax(1) - q.gather(1, y[:, None])[:, 0]).sum(), rounded)
    (found,) = torch.autograd.grad(margin_of(*log_odds(ours, y)).sum(), ours)
    direction = true / true.abs().amax(1, keepdim=True)
    assert int((naive == 0).all(1).sum()) > 5
    torch.testing.assert_close((found / found.abs().amax(1, keepdim=True)).double(), direction, atol=1e-4, rtol=0)
    for scale in (1e3, 1e5):
        far = (logits.float() * scale).requires_grad_()
        (steep,) = torch.autograd.grad(margin_of(*log_odds(far, y)).sum(), far)
        assert bool(torch.isfinite(steep).all())
        assert bool((steep.abs().amax(1) > 0.5).all())


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e4])
@pytest.mark.parametrize("name", NAMES)
def test_succeeds_exactly_where_the_known_boundary_of_two_or_six_classes_is_within_eps(name, norm, scale, find):
    """A linear model: class t is |z_y - z_t| / |w_y - w_t| in the dual norm away. Logits of 1e4 underflow a softmax."""
    classes = 6 if name == "malt" else 2 if scale > 1 else 6
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, classes))
    with torch.no_grad():
        model[1].weight.copy_(torch.randn(classes, 48, generator=generator) * scale)
        model[1].bias.zero_()
    x = 0.45 + 0.1 * some_images(30)
    logits = model(x).detach().double()
    y, weight = logits.argmax(1), model[1].weight.detach().double()
    gaps = logits.gather(1, y[:, None]) - logits
    reach = torch.linalg.vector_norm(weight[y][:, None] - weight[None], ord=1 if norm == "linf" else 2, dim=2)
    optimum = torch.where(reach > 0, gaps / reach, torch.inf).amin(1)
    threat = ThreatModel.parse(norm, float(optimum.median()))
    found = find(model, short(ATTACKS.make(name, threat=threat, classes=classes), 30), x, y)
    assert bool(found.success[optimum < 0.97 * threat.eps].all())
    assert not bool(found.success[optimum > 1.001 * threat.eps].any())
    assert 10 < int(found.success.sum()) < 20


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_malt_orders_targets_as_a_loop_over_their_gradients(norm, classes):
    net, x = smooth(classes), some_images(4).double()
    y = net(x).argmax(1)
    threat = ThreatModel.parse(norm, NORMS[norm])
    attack = in_order(APGD(threat, TARGETED_MARGIN, 2, min(9, classes - 1), name="trial"), classes)
    state = attack.start(x, y, net(x).detach(), Draw.of(0, torch.arange(4)))
    first = state.inner.x_adv
    for _ in range(classes - 1):
        torch.testing.assert_close(attack.ask(state)[0], x)
        state = told(net, attack, state)
    torch.testing.assert_close(attack.ask(state)[0], first)
    for row in range(4):
        scores = {}
        for target in set(range(classes)) - {int(y[row])}:
            leaf = x[row : row + 1].clone().requires_grad_()
            z = net(leaf)[0]
            (gradient,) = torch.autograd.grad(z[target] - z[y[row]], leaf)
            slope = gradient.abs().sum() if norm == "linf" else gradient.norm()
            scores[target] = float((z[y[row]] - z[target]).detach() / slope)
        assert state.inner.targets[row].tolist() == sorted(scores, key=scores.__getitem__)[: attack.attack.runs]
    if classes >= 10:
        assert state.inner.targets.tolist() != likely_targets(net(x), y, attack.attack.runs).tolist()


def test_a_class_that_no_gradient_approaches_comes_last():
    net, x = smooth(4), some_images(2).double()
    with torch.no_grad():
        net[3].weight[2] = 0
        net[3].weight[0] = 0  # the labels' class and class 2 are constant: their margin has no gradient
        net[3].bias.copy_(torch.tensor([50.0, 0, 49.9, 0]))
    attack = in_order(APGD(ThreatModel.parse("linf", 0.1), TARGETED_MARGIN, 2, 3, name="trial"), 4)
    state = attack.start(x, torch.zeros(2, dtype=torch.int64), net(x).detach(), Draw.of(0, torch.arange(2)))
    assert state.inner.targets[:, 0].tolist() == [2, 2]
    for _ in range(3):
        state = told(net, attack, state)
    assert state.inner.targets[:, -1].tolist() == [2, 2]


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
@pytest.mark.parametrize("name", NAMES)
def test_results_are_identical_for_any_order_and_number_of_active_rows(name, classes, rounded, find):
    if name == "malt" and classes < 4:
        pytest.skip("its loss needs four classes")
    net, x = rounded(smooth(classes)), some_images(12)
    y = net(x).argmax(1)
    attack = short(ATTACKS.make(name, threat=ThreatModel.parse("linf", 0.02), classes=classes))
    first = find(net, attack, x, y)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    again = find(net, attack, x[order], y[order], order, max_active=5)
    part = find(net, attack, x[4:9], y[4:9], torch.arange(4, 9))
    for field in ("success", "x_adv", "norm", "forwards", "backwards", "adversarial_prediction"):
        assert torch.equal(getattr(first, field), getattr(again, field)), field
        assert torch.equal(getattr(first, field)[4:9], getattr(part, field)), field
    assert 0 < int(first.success.sum()) < 12


def test_targeted_pma_turns_images_into_their_targets(find):
    model, x = smooth(5).float(), some_images(20)
    y = model(x).argmax(1)
    attack = aim(PMA(ThreatModel.parse("linf", 0.3)), Targeted("next"))
    found = find(model, attack, x, y)
    assert int(found.success.sum()) > 10
    assert torch.equal(found.adversarial_prediction[found.success], ((y + 1) % 5)[found.success])


@pytest.mark.parametrize("classes", [2, 10])
def test_prices_are_as_described_and_quick_costs_a_twentieth_of_autoattack(classes, find):
    """An image that no attack breaks pays in full; tables order columns by what ``describe`` says."""
    model, x = smooth(classes).float(), some_images(1)
    with torch.no_grad():
        model[3].bias[0] = 1e3
    y = torch.zeros(1, dtype=torch.int64)
    threat = ThreatModel.parse("linf", 0.01)
    for name in ("mm-3", "malt", "pma", "quick") if classes >= 4 else ("mm-3", "pma", "quick"):
        attack = ATTACKS.make(name, threat=threat, classes=classes)
        found, said = find(model, attack, x, y), describe(attack)
        paid = found.forwards + found.backwards
        assert not bool(found.success.any())
        assert int(paid[0]) == pytest.approx(said.evaluations, rel=0.07, abs=10), name
        assert not said.standard_autoattack
        assert not said.few_classes_autoattack
        if name == "quick" and classes == 10:
            assert int(paid[0]) <= (7850 + 1910) / 20


def test_ensembles_are_what_their_names_say():
    threat = ThreatModel.parse("linf", 0.1)
    stages = {
        ("quick", 10): ["apgd-ce-20", "mm-9-malt"], ("quick", 2): ["apgd-ce-20", "mm-9-malt"],
        ("strong", 10): ["strong-pma", "strong-apgd-t", "strong-square"],
        ("strong", 3): ["strong-pma", "strong-mm-plus", "strong-square"],
        ("pma-plus", 10): ["pma", "apgd-t"],
    }  # fmt: skip
    for (name, classes), expected in stages.items():
        attack = ATTACKS.make(name, threat=threat, classes=classes)
        assert isinstance(attack, AttackEnsemble)
        assert [stage.name for stage in attack.stages] == expected
        assert attack.decisive in expected
    assert describe(ATTACKS.make("mm-5", threat=threat, classes=10)).loss == "margin-targeted"
    assert describe(ATTACKS.make("pma", threat=threat, classes=10)).family == "pma"
