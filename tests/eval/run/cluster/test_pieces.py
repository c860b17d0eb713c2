"""Pieces: all samples once, large at first, small towards the end."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from advdpnp.eval.run.cluster.connection import Cluster
from advdpnp.eval.run.cluster.pieces import PIECE_SECONDS, Group, fewest


def pieces_of(
    rows: int, workers: int, *, cost: float = 100.0, seconds: float = 1e-5, least: int = 32
) -> list[np.ndarray]:
    group = Group([("a", np.arange(rows))], cost, 1.0, seconds)
    pieces = []
    while group.rows_left:
        pieces.append(group.cut(group.cost_left, workers, least, 8).samples)
    return pieces


def cut_up(rows: int, workers: int, **facts: float) -> list[int]:
    return [len(piece) for piece in pieces_of(rows, workers, **facts)]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 200), st.integers(8, 128))
def test_every_sample_is_in_one_piece(rows, workers, least):
    together = np.concatenate(pieces_of(rows, workers, least=least))
    assert np.array_equal(np.sort(together), np.arange(rows))


def test_pieces_shrink_towards_the_end():
    sizes = cut_up(10_000, 10)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 500
    assert max(sizes[-10:]) - min(sizes[-10:]) <= 1  # the last round is shared evenly
    assert len(sizes) < 100


def test_few_samples_are_shared_evenly():
    assert cut_up(48, 2, least=64) == [24, 24]
    assert cut_up(10, 4, least=64) == [5, 5]  # no fewer than the smallest batch


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_every_worker_has_as_many_of_the_last_pieces(workers):
    for rows in range(10 * workers, 100 * workers, workers):
        sizes = cut_up(rows, workers, least=30)
        last = [size for size in sizes if size <= sizes[-1] + 1]
        assert len(last) % workers == 0
        assert len(last) <= 2 * workers


def test_no_piece_is_what_other_pieces_have_left_over():
    group, other = (Group([(name, np.arange(1000))], 100, 1.0, 1e-5) for name in "ab")
    pieces = []
    while group.rows_left:
        pieces.append(len(group.cut(group.cost_left + other.cost_left, 2, 320, 8).samples))
    assert min(pieces) >= 250
    group = Group([("a", np.arange(500))], 100, 1.0, 1e-2)
    sizes = []
    while group.rows_left:
        sizes.append(len(group.cut(np.inf, 4, 90, 8).samples))  # models wait that nobody has begun
    assert min(sizes) >= 70


@pytest.mark.parametrize("workers", [3, 5, 6, 7])
def test_rounding_adds_no_worker(workers):
    for cost in np.random.default_rng(0).uniform(1, 1e4, 300):
        assert len(cut_up(10 * workers, workers, cost=cost, least=40)) == workers


def test_the_last_pieces_have_samples_of_every_class_where_a_data_set_is_sorted():
    of_class = np.arange(60) // 20
    for piece in pieces_of(60, 4, least=64):
        assert np.unique(of_class[piece]).tolist() == [0, 1, 2]


def test_a_piece_takes_no_longer_than_a_failure_may_cost():
    sizes = cut_up(10_000, 2, cost=10_000, seconds=1e-4)
    assert sizes[0] == pytest.approx(PIECE_SECONDS / (10_000 * 1e-4), abs=1)


def test_the_measured_cost_takes_the_place_of_the_declared_one():
    group = Group([("a", np.arange(1000))], 100, 1.0, 1e-4)
    group.observe(10_000, 10_000 * 300, 1.0)
    assert group.cost == pytest.approx(300, rel=0.01)
    unknown = Group([("a", np.arange(10))], None, 1.0, 0.0)
    assert unknown.cost_left > 0


def test_a_group_serves_each_evaluation_with_what_it_lacks():
    group = Group([("near", np.arange(10)), ("far", np.arange(5, 15))], 1, 1.0, 0.0)
    piece = group.cut(np.inf, 1, 100, 8)
    assert piece.samples.tolist() == list(range(15))
    assert {unit: samples.tolist() for unit, samples in piece.units} == {
        "near": list(range(10)),
        "far": list(range(5, 15)),
    }


def test_what_cannot_be_divided_is_one_piece():
    group = Group([("a", np.arange(1000))], 1000, 1.0, 1.0, whole=True)
    assert len(group.cut(1e6, 50, 8, 8).samples) == 1000


def test_a_piece_that_is_given_back_is_the_next_one():
    group = Group([("a", np.arange(100))], 1, 1.0, 0.0)
    piece = group.cut(100, 4, 8, 8)
    group.give_back(piece)
    assert group.rows_left == 100
    assert group.cut(100, 4, 8, 8) is piece


def test_small_pieces_are_worth_it_for_slow_models_alone():
    assert fewest(128, 0.01, on_cpu=True) == 4
    assert fewest(128, 1e-5, on_cpu=True) == 3200
    assert fewest(256, 0.01, on_cpu=False) == 256


def test_a_fast_model_is_cut_into_one_piece_for_each_worker():
    # A step of an attack takes as long for few images as for many, and a piece has the steps of its last image.
    assert cut_up(500, 2, cost=9700, seconds=1e-4, least=320) == [250, 250]


def test_a_model_is_cut_for_its_share_of_the_workers():
    groups = [Group([(str(n), np.arange(500))], 1000, 1.0, 1e-4) for n in range(10)]
    left = sum(group.cost_left for group in groups)
    assert len(groups[0].cut(left, 20, 500, 8).samples) == 250  # two of twenty workers


def test_where_few_samples_survive_a_piece_has_more_of_them():
    def sizes(surviving: float) -> list[int]:
        group, found = Group([("a", np.arange(4000))], 1000, surviving, 1e-4), []
        while group.rows_left:
            found.append(len(group.cut(group.cost_left, 2, 200, 8).samples))
        return found

    assert min(sizes(1.0)) <= 200
    assert min(sizes(0.25)) >= 500


def test_workers_share_gpus_and_each_takes_a_core():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    resources = {"CPU": 16.0, "GPU": 2.0, "memory": 1e9}
    assert Cluster("auto").places(resources, cuda) == 2
    assert Cluster("auto", 3).places(resources, cuda) == 6
    assert Cluster("auto", 20).places(resources, cuda) == 16  # no more than cores
    assert Cluster("auto", 3).places(resources, cpu) == 16
    assert Cluster("auto", 3).places({"CPU": 4.0}, cuda) == 0
    assert Cluster("auto").share(cpu) == {"num_cpus": 1}
    for per_gpu in range(1, 30):  # Ray counts in ten-thousandths
        share = Cluster("auto", per_gpu).share(cuda)["num_gpus"]
        assert share * 10_000 == pytest.approx(round(share * 10_000))
        assert share * per_gpu <= 1
