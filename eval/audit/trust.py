"""What an audit has shown, what it has not looked at, and what its reader still has to believe."""

from collections.abc import Iterator, Sequence

from advdpnp.base.errors import AdvdpnpError
from advdpnp.eval.audit.folder import Again, FolderAudit
from advdpnp.eval.audit.signature import is_signed
from advdpnp.eval.store.rules.seal import Seal


def what_is_known(found: Sequence[FolderAudit], again: Again | None, seals: Sequence[Seal]) -> Iterator[str]:
    """Lines for the end of an audit.

    Args:
        found: of each model.
        again: which samples were searched again.
        seals: of the folders; their files are unchanged.
    """
    yield ""
    yield "checked: " + "; ".join(_checked(found, again, seals))
    yield "not checked: " + "; ".join(_not_checked(found, again, seals))
    yield "to believe: " + "; ".join(_believed(found, again))


def _checked(found: Sequence[FolderAudit], again: Again | None, seals: Sequence[Seal]) -> Iterator[str]:
    yield (
        "of all that could be read, labels, clean predictions and margins, stored images, names by definitions, "
        "numbers by verdicts"
    )
    yield "what model.json says, against the model"
    if again is not None:
        if any(not each.why_not for model in found for each in model.replays):
            yield f"samples drawn with seed {again.seed}, searched again{_strength(found)}"
        yield "the measurements behind flags"
    for seal in seals:
        yield f"the seal of {seal.folder.name}, key {seal.fingerprint}{_signature(seal)}"


def _strength(found: Sequence[FolderAudit]) -> str:
    """The largest fraud that may have been missed, over all attacks that were searched again."""
    replays = [each for model in found for each in model.replays if each.claimed and not each.why_not]
    if not replays:
        return ""
    weakest = max(replays, key=lambda each: each.noticed[0] / each.claimed if each.noticed[0] else 2.0)
    false, chance = weakest.noticed
    if weakest.robust == weakest.claimed:
        return " (all that are claimed robust)"
    if not false:
        return ""
    return (
        f" (of {weakest.unit.label}, {weakest.robust} of {weakest.claimed} that are claimed robust: had {false} of "
        f"them been false, the chance of missing all would be {100 * chance:.1f} %)"
    )


def _signature(seal: Seal) -> str:
    try:
        return "" if is_signed(seal) else " (its signature is wrong)"
    except AdvdpnpError as error:
        return f" (signature not checked: {error})"


def _not_checked(found: Sequence[FolderAudit], again: Again | None, seals: Sequence[Seal]) -> Iterator[str]:
    if again is None:
        yield "whether what is claimed robust is (--replay), corrupted images, the measurements behind flags"
    else:
        left = {each.unit.label for model in found for each in model.replays if each.why_not}
        if left:
            yield f"searches of {', '.join(sorted(left))}"
        searched = [each for model in found for each in model.replays if not each.why_not]
        if any(len(each.samples) < len(each.unit.samples) for each in searched):
            yield "the samples that were not drawn"
    if not all(model.alike for model in found):
        yield "costs and draws of the searches, for no clean margins are here what is stored to the last bit"
    if not seals:
        yield "whether these are the files that somebody published (no seal)"


def _believed(found: Sequence[FolderAudit], again: Again | None) -> Iterator[str]:
    yield "dates, seconds, versions, devices and commands"
    yield "the names of models" if found else ""
    yield "that the attacks shown are all that were tried, and that nothing stronger breaks more"
