"""Tables and figures of one folder are made by one process after the other."""

import threading
from collections.abc import Callable
from pathlib import Path

from advdpnp.commands.stored.leaderboard import leaderboard
from advdpnp.eval.analysis.columns import read_leaderboard
from advdpnp.eval.report.leaderboard import writing_tables
from advdpnp.eval.store.model_record import find_models

SHARES = {"clean": 0.9, "fgsm": 0.5}


def test_a_table_waits_for_the_other_process_and_has_its_rows(store_model: Callable[..., Path]) -> None:
    """Else the table that is written last would be that of the process that has read first."""
    out = store_model("one", SHARES)
    other = threading.Thread(target=leaderboard, args=([out],))
    with writing_tables(out):
        other.start()
        other.join(1.0)
        assert not (out / "leaderboard.csv").exists()
        store_model("two", SHARES)
    other.join()
    assert set(read_leaderboard(out / "leaderboard.csv")["model"]) == {"one", "two"}


def test_what_killed_writers_of_tables_left_is_cleared_away_and_nobody_elses(store_model: Callable[..., Path]) -> None:
    out = store_model("one", SHARES)
    killed = out / ".leaderboard.csv.abcdefgh.tmp"
    at_work = find_models(out)[0].with_name(".fgsm.parquet.abcdefgh.tmp")
    for path in (killed, at_work):
        path.write_bytes(b"half")
    leaderboard([out])
    assert not killed.exists()
    assert at_work.exists()
