"""Clusters that are not there, and what the workers are sent beside what is installed on them."""

import importlib
import socket
import sys

import pytest
from torch import nn

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.run.cluster import connection
from advdpnp.eval.run.cluster.connection import Cluster, connected, shipped_modules
from advdpnp.models.loading import as_loaded

NETS = """
from torch import nn
import {layers}

class Net(nn.Module):
    def forward(self, x):
        return x.flatten(1)[:, :4]
"""


def test_nothing_is_looked_for_where_all_is_installed(monkeypatch):
    looked = []
    is_own = connection._is_own
    monkeypatch.setattr(connection, "_is_own", lambda module: looked.append(module.__name__) or is_own(module))
    model = as_loaded(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)).eval(), "net")
    assert shipped_modules([model]) == []
    assert len(looked) < 20  # the modules of its layers, not the thousands that are imported


def test_a_net_of_the_user_travels_with_what_it_imports_beside_it(tmp_path, monkeypatch):
    (tmp_path / "travelling_layers.py").write_text("")
    (tmp_path / "travelling_nets.py").write_text(NETS.format(layers="travelling_layers"))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        net = importlib.import_module("travelling_nets").Net().eval()
        shipped = shipped_modules([as_loaded(net, "net")])
    finally:
        for name in ("travelling_nets", "travelling_layers"):
            sys.modules.pop(name, None)
    assert [path.name for path in shipped] == ["travelling_layers.py", "travelling_nets.py"]


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:{port}"])
def test_where_no_cluster_answers_a_sentence_says_so_at_once(address, tmp_path, monkeypatch):
    with socket.socket() as unheard:  # bound, so that nobody else listens there
        unheard.bind(("127.0.0.1", 0))
        port = unheard.getsockname()[1]
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")  # as what a cluster that has ended leaves behind
        monkeypatch.setattr("ray.init", None)  # which would wait for minutes
        with (
            pytest.raises(AdvdpnpError, match=r"there is no Ray cluster at .*ConnectionRefused.*; start one"),
            connected(Cluster(address.format(port=port)), [], tmp_path / "ray.log"),
        ):
            raise AssertionError


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(AdvdpnpError, match=r"cannot write .*ray\.log"),
        connected(Cluster(), [], tmp_path / "file" / "ray.log"),
    ):
        raise AssertionError
