"""The engine on an accelerator that is simulated."""

from pathlib import Path

import pytest


@pytest.mark.slow
def test_searches_run_on_a_simulated_accelerator(in_own_process):
    in_own_process(Path(__file__).with_name("accelerated_search.py"))
