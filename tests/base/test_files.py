"""A file that cannot be written is one sentence, whichever library writes it and however it says so."""

import os
import signal

import pytest
import torch
from safetensors.torch import save_file

from advdpnp.base.errors import AdvdpnpError
from advdpnp.base.files import atomic_path

resource = pytest.importorskip("resource")


@pytest.fixture
def small_files():
    """No file may grow beyond 64 KiB, as under a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def by_torch(path):
    with open(path, "wb") as stream:
        torch.save({"weight": torch.zeros(100_000)}, stream)


def by_safetensors(path):
    save_file({"weight": torch.zeros(100_000)}, path)


def by_python(path):
    path.write_bytes(b"0" * 400_000)


@pytest.mark.parametrize("write", [by_torch, by_safetensors, by_python])
def test_what_the_system_refuses_is_told_in_its_words(write, small_files, tmp_path):
    (tmp_path / "file").write_text("old")
    with pytest.raises(AdvdpnpError, match=r"cannot write .*file: File too large"), atomic_path(tmp_path / "file") as t:
        write(t)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_an_error_of_another_kind_stays_what_it_is(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "file"):
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
