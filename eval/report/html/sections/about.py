"""How to read the page, what each flag means, and what the files in its folder hold."""

from collections.abc import Mapping
from typing import Any

from advdpnp.base.statistics import SIGNIFICANT
from advdpnp.eval.analysis import agreement, per_class
from advdpnp.eval.analysis.columns import meaning_of
from advdpnp.eval.diagnostics.texts import FLAGS
from advdpnp.eval.report.html.context import PageContext
from advdpnp.eval.report.html.section import Section


def _gather(context: PageContext) -> Mapping[str, Any]:
    raised = {code for text in context.frame["flags"] for code in text.split("; ") if code}
    return {
        "significant": SIGNIFICANT,
        "flags": [(code, meaning, code in raised) for code, meaning in FLAGS.items()],
        "files": [
            ("leaderboard.csv", [(name, meaning_of(name)) for name in map(str, context.frame)]),
            ("per-class.csv", list(per_class.MEANINGS.items())),
            ("agreement.csv", list(agreement.MEANINGS.items())),
        ],
    }


SECTION = Section("about", "About", "How to read this page", "", _gather)
