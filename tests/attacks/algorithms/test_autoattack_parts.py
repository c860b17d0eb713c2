"""APGD, FAB and Square, our own: against closed forms and against the package that the authors published."""

from dataclasses import replace

import pytest
import torch

from advdpnp.attacks import ThreatModel
from advdpnp.attacks.algorithms import fab_projection
from advdpnp.attacks.algorithms.apgd import APGD, TARGETED_DLR, checkpoints
from advdpnp.attacks.algorithms.fab import FAB
from advdpnp.attacks.algorithms.fab_projection import project_to_hyperplane
from advdpnp.attacks.algorithms.square import Square, _level, _pattern
from advdpnp.attacks.criteria import likely_targets
from advdpnp.attacks.engine.replicas import ModelReplicas
from advdpnp.attacks.losses import targeted_difference_of_logits_ratio
from advdpnp.attacks.norms import length, surface_start
from advdpnp.base.compat import import_pyautoattack
from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.randomness import Draw


@pytest.fixture
def linear_case(linear):
    """Images well inside the box: the nearest boundary is |value| / |w|_1 (Linf) or |value| / |w|_2 (L2) away."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(3 * 8 * 8, generator=generator)
    x = 0.4 + 0.2 * torch.rand(37, 3, 8, 8, generator=generator)
    model = linear(w, -(x.flatten(1) @ w).median() - 0.05)
    value = model.value(x.double())
    return model, x, (value < 0).long(), {"linf": value.abs() / w.abs().sum(), "l2": value.abs() / w.norm()}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize(
    "make",
    [
        lambda threat: APGD(threat, "ce", iterations=30),
        lambda threat: APGD(threat, "margin", iterations=30, runs=2),
        lambda threat: FAB(threat, iterations=10, runs=1),
    ],
    ids=["apgd-ce", "apgd-margin", "fab-t"],
)
def test_succeeds_exactly_where_the_closed_form_optimum_is_within_eps(linear_case, find, make, norm):
    model, x, y, optima = linear_case
    optimum = optima[norm]
    eps = float(optimum.median())
    found = find(model, make(ThreatModel.parse(norm, eps)), x, y)
    assert bool(found.success[optimum < 0.97 * eps].all())
    assert not bool(found.success[optimum > 1.001 * eps].any())
    assert 10 < int(found.success.sum()) < 30


def test_targeted_attacks_reach_the_nearest_boundary_of_a_linear_model_of_many_classes(find):
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(6, 48, generator=generator)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 6))
    with torch.no_grad():
        model[1].weight.copy_(weights)
        model[1].bias.zero_()
    x = 0.45 + 0.1 * torch.rand(40, 3, 4, 4, generator=generator)
    y = model(x).argmax(1)
    logits = model(x).detach().double()
    gaps = logits.gather(1, y[:, None]) - logits
    reach = (weights[y][:, None] - weights[None]).abs().sum(2).double()
    optimum = torch.where(reach > 0, gaps / reach, torch.inf).amin(1)
    threat = ThreatModel.parse("linf", float(optimum.median()))
    for attack in (APGD(threat, TARGETED_DLR, 40, runs=5, name="apgd-t"), FAB(threat, iterations=15, runs=5)):
        found = find(model, attack, x, y)
        assert bool(found.success[optimum < 0.97 * threat.eps].all()), attack.name
        assert not bool(found.success[optimum > 1.001 * threat.eps].any()), attack.name


def test_checkpoints_are_those_of_the_paper():
    assert list(checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]


@pytest.mark.parametrize("norm", ["Linf", "L2"])
def test_apgd_climbs_as_high_as_the_published_one_from_the_same_start(net, images, labels, norm):
    """From the same start, the final loss agrees for nearly all rows."""
    eps = {"Linf": 0.02, "L2": 0.3}[norm]
    threat = ThreatModel.parse(norm, eps)
    x, y = images[5:].double(), labels[5:]
    attack = APGD(threat, "ce")
    draw = Draw.of(3, torch.arange(len(x)))
    reference = import_pyautoattack().AutoAttack(net.double(), norm=norm, eps=eps, version="standard").apgd
    reference.init_hyperparam(x)
    reference.loss = "ce"
    start = surface_start(x, threat, draw, torch.zeros_like(y))
    _, _, theirs, _ = reference.attack_single_run(x, y, x_init=start)
    state = attack.start(x, y, None, draw)
    torch.testing.assert_close(state.x_adv, start)
    ours = torch.full_like(theirs, -torch.inf)
    while not bool(state.done.all()):
        queries, objective = attack.ask(state)
        queries = queries.requires_grad_()
        logits = net(queries)
        value = objective(logits)
        (gradient,) = torch.autograd.grad(value.sum(), queries)
        ours = torch.maximum(ours, value.detach())
        state = attack.tell(state, logits.detach(), gradient, logits.argmax(1) != y)
    assert float(((ours - theirs).abs() < 1e-6).double().mean()) > 0.9
    assert abs(float((ours - theirs).mean())) < 0.01


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_on_a_hyperplane_is_that_of_the_published_one(norm):
    import_pyautoattack()
    from pyautoattack import fab_projections

    generator = torch.Generator().manual_seed(0)
    points = torch.rand(200, 3, 5, 5, generator=generator, dtype=torch.float64)
    normal = torch.randn(points.shape, generator=generator, dtype=torch.float64)
    normal[:, 0, 0, 0] = 0
    gap = torch.randn(200, generator=generator, dtype=torch.float64) * torch.logspace(-2, 2, 200).double()
    level = (normal * points).flatten(1).sum(1) + gap
    theirs = getattr(fab_projections, f"projection_{norm}")(points.flatten(1), normal.flatten(1), level)
    theirs = theirs.view_as(points)
    ours = project_to_hyperplane(points, normal, level, norm)
    torch.testing.assert_close(length(ours, norm), length(theirs, norm), atol=1e-9, rtol=1e-6)
    moved, theirs_moved = ((normal * delta).flatten(1).sum(1) for delta in (ours, theirs))
    torch.testing.assert_close(moved, theirs_moved, atol=1e-7, rtol=1e-6)
    assert bool(((points + ours) >= -1e-12).all())
    assert bool(((points + ours) <= 1 + 1e-12).all())
    assert 50 < int(((moved - gap).abs() < 1e-9).sum()) < 200  # the largest gaps lead out of the box


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("power", [1, 6])  # of the gradient's entries: equally heavy, or a few that outweigh all
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])  # of the way to the last hyperplane within the bounds
def test_an_accelerator_takes_enough_rounds_of_the_projection(norm, power, share, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    x = torch.rand(32, 3, 32, 32, generator=generator)
    normal = torch.randn(x.shape, generator=generator)
    normal = normal.sign() * normal.abs() ** power
    furthest = torch.where(normal > 0, normal * (1 - x), -normal * x).flatten(1).sum(1)
    level = (normal * x).flatten(1).sum(1) + share * furthest
    converged = project_to_hyperplane(x, normal, level, norm)
    monkeypatch.setattr(fab_projection, "_ROUNDS", fab_projection._ROUNDS_WITHOUT_LOOKS[norm])
    assert torch.equal(project_to_hyperplane(x, normal, level, norm), converged)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection_without_a_gradient_stays(norm):
    points = torch.rand(2, 1, 2, 2)
    delta = project_to_hyperplane(points, torch.zeros(2, 1, 2, 2), torch.tensor([1.0, -1.0]), norm)
    assert torch.equal(delta, torch.zeros_like(points))


def test_targets_are_the_other_classes_with_the_largest_logits():
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    assert likely_targets(logits, torch.tensor([0, 1]), 3).tolist() == [[2, 1, 3], [3, 2, 0]]


def test_targeted_dlr_ignores_shift_and_scale():
    logits = torch.randn(5, 6, dtype=torch.float64)
    y, target = torch.arange(5), torch.arange(1, 6)
    value = targeted_difference_of_logits_ratio(logits, y, target)
    torch.testing.assert_close(targeted_difference_of_logits_ratio(1000 * logits - 7, y, target), value)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 20, 31)])
def test_squares_stay_within_eps_and_change_one_square_at_a_time(norm, shape):
    threat = ThreatModel.parse(norm, 0.1 if norm == "linf" else 1.0)
    attack = Square(threat, queries=12)
    x = torch.rand(6, *shape, generator=torch.Generator().manual_seed(0))
    y = torch.zeros(6, dtype=torch.int64)
    state = attack.start(x, y, None, Draw.of(0, torch.arange(6)))
    logits = torch.randn(30, 6, 4, generator=torch.Generator().manual_seed(1))
    squares = 0
    for step in range(12):
        image, _ = attack.ask(state)
        assert bool(threat.contains(x, image).all())
        state = attack.tell(state, logits[step], None, y.bool())
        if norm == "linf":
            largest = int(attack.sides(state.query[:1] - 1, shape[1], shape[2], 1)[0])
            for changed in (state.candidate != state.best).any(1):
                area = torch.nonzero(changed)
                if len(area):
                    squares += 1
                    assert int((area.amax(0) - area.amin(0)).max()) < largest
    assert squares > 30 or norm == "l2"
    assert not bool(state.done.any())
    assert bool(attack.tell(state, logits[12], None, y.bool()).done.all())


def test_square_keeps_only_changes_that_raise_the_margin_loss():
    attack = Square(ThreatModel.parse("linf", 0.1))
    x, y = torch.rand(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)
    state = attack.start(x, y, None, Draw.of(0, torch.arange(2)))
    state = attack.tell(state, torch.tensor([[2.0, 1.0], [2.0, 1.0]]), None, y.bool())
    after = attack.tell(state, torch.tensor([[2.0, 1.5], [2.0, 0.5]]), None, y.bool())
    assert torch.equal(after.best[0], state.candidate[0])
    assert torch.equal(after.best[1], state.best[1])


def test_squares_shrink_as_published():
    reference = import_pyautoattack().AutoAttack(torch.nn.Identity(), eps=0.1, version="standard").square
    queries = torch.tensor([0, 10, 11, 50, 51, 201, 501, 1001, 2001, 4001, 4999])
    ours = [0.8 * 0.5**level for level in _level(queries).tolist()]
    assert ours == pytest.approx([reference.p_selection(query) for query in queries.tolist()])


@pytest.mark.parametrize("side", [3, 5, 6, 11, 29])
def test_the_pattern_is_the_published_one(side):
    reference = import_pyautoattack().AutoAttack(torch.nn.Identity(), norm="L2", eps=0.1, version="standard").square
    reference.device = "cpu"
    theirs, ours = reference.eta(side), _pattern(side)
    assert torch.allclose(theirs, ours, atol=1e-6) or torch.allclose(theirs, ours.T, atol=1e-6)


def test_square_succeeds_without_a_gradient(net, images, labels, find):
    found = find(net, Square(ThreatModel.parse("linf", 0.15), queries=300), images, labels)
    assert int(found.success.sum()) > 30
    assert int(found.backwards.sum()) == 0


@pytest.mark.parametrize("name", ["apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "square"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_result_of_a_sample_depends_on_that_sample_alone(net, rounded, images, labels, attack, find, name, norm):
    net = rounded(net)
    made = attack(name, 0.01 if norm == "linf" else 0.2, norm)
    made = replace(made, queries=25) if name == "square" else replace(made, iterations=6, runs=min(made.runs, 2))
    together = find(net, made, images, labels, max_active=len(images))
    few = find(net, made, images, labels, max_active=7)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    shuffled = find(net, made, images[order], labels[order], order, max_active=20)
    for other in (few, shuffled):
        assert torch.equal(together.success, other.success)
        assert torch.equal(together.x_adv, other.x_adv)
        assert torch.equal(together.forwards, other.forwards)
    assert int(together.success.sum()) > 5  # more than the clean mistakes


@pytest.mark.parametrize("name", ["apgd-dlr", "apgd-t"])
def test_too_few_classes_raise_with_an_alternative(attack, name):
    with pytest.raises(AdvdpnpError, match="use apgd-ce"):
        attack(name, classes=2)


@pytest.mark.parametrize("name", ["apgd-t", "fab-t"])
def test_surviving_rows_use_every_step_of_every_target(net, images, labels, attack, find, name):
    found = find(net, replace(attack(name, 1e-6), iterations=4, runs=3), images[5:], labels[5:])
    assert not bool(found.success.any())
    # APGD also uses the gradient of its last image. FAB evaluates the result of each step once without a gradient.
    assert int(found.backwards.min()) >= 3 * (5 if name == "apgd-t" else 4)
    assert int(found.forwards.min()) >= 3 * (5 if name == "apgd-t" else 8)


class Far(FAB):
    """Steps begin at four times the distance, where images are often misclassified and do not count."""

    def ask(self, state):
        queries, loss = super().ask(state)
        far = (4 * queries - 3 * state.x).clamp(0, 1)
        return torch.where(state.placed[:, None, None, None], far, queries), loss


def test_every_step_has_its_gradient_after_images_that_are_misclassified_outside_eps(net, images, labels, find):
    far = Far(ThreatModel.parse("linf", 1e-4), iterations=6, runs=2)
    found = find(net, far, images[5:], labels[5:])
    survivors = ~found.success
    assert survivors.any()
    assert set(found.backwards[survivors].tolist()) == {12}
    assert set(found.forwards[survivors].tolist()) == {26}


def test_models_that_answer_otherwise_with_a_gradient_are_asked_as_with_one(
    net, rounded, images, labels, attack, find, monkeypatch
):
    net = rounded(net)  # forwards with and without gradients agree on every processor, so both ways do
    fab = replace(attack("fab-t", 0.01), iterations=10, runs=3)
    spared = find(net, fab, images, labels, max_active=20)
    monkeypatch.setattr(ModelReplicas, "forwards_agree", lambda self: False)
    found = find(net, fab, images, labels)
    for column in ("success", "x_adv", "norm", "margin", "zero_gradient", "forwards", "backwards"):
        assert torch.equal(getattr(spared, column), getattr(found, column)), column
    assert 0 < int(found.success[5:].sum()) < 55
    robust = (~found.success).nonzero()[:, 0]
    assert found.backwards[robust].tolist() == [10 * 3] * len(robust)  # one for each step, not for what it leads to
