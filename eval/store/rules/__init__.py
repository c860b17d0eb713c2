"""What any stored evaluation must fulfil: the rules that readers apply before anybody sees a number.

One set of rules for tables, audits and evaluations that continue. Each answers in words, or "" where nothing is wrong;
none needs the model or the data.
"""

from advdpnp.eval.store.rules.identity import wrong_identity
from advdpnp.eval.store.rules.known_data import KNOWN_DATA, KnownData
from advdpnp.eval.store.rules.verdicts import wrong_verdicts

__all__ = ["KNOWN_DATA", "KnownData", "wrong_identity", "wrong_verdicts"]
