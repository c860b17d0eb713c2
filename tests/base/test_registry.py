"""Registering by decorator: enough without a package, also when a cell of a notebook runs twice."""

import pytest

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.registry import Registry
from advdpnp.corruption import declare, find_corruption
from advdpnp.corruption.registry import CORRUPTIONS

CELL = """
@registry.register("mine", description="a trial")
def mine(): return {value}
"""


def test_a_cell_that_runs_again_replaces_its_entry():
    registry = Registry("thing", "advdpnp.nothing")
    for value in (1, 2):
        exec(CELL.format(value=value), {"registry": registry, "__name__": "__main__"})
    assert registry.names() == ["mine"]
    assert registry.make("mine") == 2


@pytest.mark.parametrize("names", [("__main__", "other_module"), ("__main__", "__main__")])
def test_two_definitions_of_one_name_are_refused(names):
    registry = Registry("thing", "advdpnp.nothing")
    exec(CELL.format(value=1), {"registry": registry, "__name__": names[0]})
    another = CELL.replace("def mine", "def another" if names[0] == names[1] else "def mine").format(value=2)
    with pytest.raises(AdvdpnpError, match="two things are both named 'mine'"):
        exec(another, {"registry": registry, "__name__": names[1]})
    assert registry.make("mine") == 1


def test_corruptions_are_told_apart_by_their_operations(monkeypatch):
    monkeypatch.setattr(CORRUPTIONS, "_entries", dict(CORRUPTIONS._entries))
    values = {"group": "own", "description": "a trial", "status": "ours"}

    def define(share: float):
        @declare("dead_rows", constants=((share,),) * 5, **values)
        def dead_rows(images, draw, share):
            return images

    define(0.1)
    define(0.2)  # the cell again, with other constants
    assert find_corruption("dead_rows").constants[0] == (0.2,)
    with pytest.raises(AdvdpnpError, match="both named"):

        @declare("dead_rows", constants=((0.3,),) * 5, **values)
        def other(images, draw, share):
            return images
