"""Write everything about a set of rows: the leaderboard, accuracy per class, agreement of attacks, and the page."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from advdpnp.base.files import write_text
from advdpnp.eval.analysis.agreement import agreement_table
from advdpnp.eval.analysis.per_class import per_class_table
from advdpnp.eval.analysis.rows import Row
from advdpnp.eval.report.csv import to_csv
from advdpnp.eval.report.html import to_html
from advdpnp.eval.report.leaderboard import flags_of, tabulate_rows, with_published, write_leaderboard


def write_report(
    rows: Sequence[Row],
    out: Path,
    *,
    folders: Sequence[Path] | None = None,
    mce_baseline: str | None = None,
    published: bool = False,
) -> pd.DataFrame:
    """Write ``leaderboard.*``, ``seeds.csv``, ``per-class.csv`` and ``agreement.csv`` to the folder ``out``.

    Args:
        rows: what ``make_rows`` gives.
        out: where to write.
        folders: where the page looks for measurements of geometry; None looks in ``out``.
        mce_baseline: see ``build_leaderboard``.
        published: add what RobustBench publishes of the same data and threat models.

    Returns:
        The leaderboard as it was written.

    Raises:
        AdvdpnpError: the baseline cannot be compared with, or the folder cannot be written.
    """
    flags = flags_of(rows)
    frame = tabulate_rows(rows, mce_baseline, flags)
    if published:
        frame = with_published(frame, rows)
    write_leaderboard(frame, out)
    write_text(out / "per-class.csv", to_csv(per_class_table(rows)))
    write_text(out / "agreement.csv", to_csv(agreement_table(rows)))
    write_text(out / "leaderboard.html", to_html(frame, rows, [out] if folders is None else folders, flags))
    return frame
