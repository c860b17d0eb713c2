"""Some of each kind of tampering: each is noticed, or has its reason why nothing can notice it."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import advdpnp

REPOSITORY = Path(advdpnp.__file__).resolve().parent.parent

CHOSEN = (
    "fgsm: successes become survivals", "fgsm: all successes become survivals, without a trace",
    "pgd-20: the distance of a success is beyond eps", "pgd-20: a survival is predicted wrong",
    "pgd-20: margins are larger", "fgsm: it cost less", "autoattack: another stage ended it",
    "cw: the broken samples are cut away", "cw: the last samples are cut away", "fgsm: sold as autoattack",
    "fgsm: sold as autoattack, with the definition of it", "pgd-20: eps is written as 0.3",
    "cw: eps is 0.3, and the definition fits", "pgd-20: another seed", "pgd-20: another batch shape",
    "all files are cut down to the samples that survive", "the strong attacks are deleted",
    "the strong attacks are deleted, and the plan", "clean mistakes are right",
    "a cell of the corruptions is called another one", "the data set is larger", "other versions", "no date",
    "an attack describes itself as stronger", "model.json: another min_separation", "model.json: another name",
    "model.json: the classes in another order", "measurements: all right", "measurements: deleted",
    "units.json: diagnostics/0/numbers is {}", "a stranger's folder: nothing breaks anything",
    "two files change their places", "a byte of adversarials.parquet is another one", "units.json is gone",
    "units.json: evaluations/0/identity is None", "units.json: runs/0/versions is 'x'", "model.json: name is -1",
)  # fmt: skip


@pytest.fixture(scope="module")
def tampering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The bench, and all ways by name; scripts are no part of the installed package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(REPOSITORY))
        bench, ways, searches = (
            importlib.import_module(f"benchmarks.tampering.{name}") for name in ("bench", "ways", "searches")
        )
        with searches.remembered_searches():
            yield bench.Bench(tmp_path_factory.mktemp("tampering")), {way.name: way for way in ways.all_ways()}


@pytest.mark.parametrize("name", CHOSEN)
def test_a_way_of_tampering_is_noticed_or_has_its_reason(tampering: tuple[Any, dict[str, Any]], name: str) -> None:
    bench, ways = tampering
    found = bench.row(ways[name])
    assert found["outcome"] == (ways[name].why_not or "noticed"), found


def test_every_kind_of_tampering_is_tried(tampering: tuple[Any, dict[str, Any]]) -> None:
    def kind(name: str) -> str:
        return name.partition(":")[0]

    ways = tampering[1]
    assert set(CHOSEN) <= set(ways)
    assert {kind(name) for name in ways if ":" in name} <= {kind(name) for name in CHOSEN}
