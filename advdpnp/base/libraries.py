"""What is known of attack libraries without importing them: the attacks that those installed offer, and their norms."""

import ast
import importlib.util
import re
from functools import cache
from pathlib import Path

ADV_LIB = {
    "alma": "l2 l1", "apgd": "linf l2 l1", "apgd_targeted": "linf l2 l1", "carlini_wagner_l2": "l2",
    "carlini_wagner_linf": "linf", "ddn": "l2", "df": "linf l2", "fab": "linf l2 l1", "fga": "l0",
    "fmn": "linf l2 l1 l0", "pdgd": "l2", "pdpgd": "linf l2 l1 l0", "pgd_linf": "linf", "sdf": "l2", "sigma_zero": "l0",
    "str_attack": "l2", "tr": "linf l2", "vfga": "l0",
}  # fmt: skip
"""Norms of each attack, which the library does not declare. Attacks under no norm (colours) are left out."""

ART = {
    "AutoAttack": "linf l2 l1", "AutoConjugateGradient": "linf l2 l1", "AutoProjectedGradientDescent": "linf l2 l1",
    "BasicIterativeMethod": "linf", "BoundaryAttack": "l2", "CarliniL0Method": "l0", "CarliniL2Method": "l2",
    "CarliniLInfMethod": "linf", "DeepFool": "l2", "ElasticNet": "l1", "FastGradientMethod": "linf l2 l1",
    "HopSkipJump": "linf l2", "MomentumIterativeMethod": "linf l2 l1", "NewtonFool": "l2",
    "PixelAttack": "l0", "ProjectedGradientDescent": "linf l2 l1", "ProjectedGradientDescentPyTorch": "linf l2 l1",
    "RescalingAutoConjugateGradient": "linf l2 l1", "SaliencyMapMethod": "l0", "SignOPTAttack": "l2", "SimBA": "l2",
    "SquareAttack": "linf l2", "ThresholdAttack": "linf",
    "VirtualAdversarialMethod": "l2", "ZooAttack": "l2",
}  # fmt: skip
"""Norms of each attack, which ART says in its documentation. Attacks under no norm (patches, lasers), those
of other frameworks and GeoDA, which fails with NumPy 2, are left out."""

FOOLBOX_SUFFIX = "Attack"
FOOLBOX_UNUSABLE = {
    "BinarizationRefinementAttack": "needs the images of another attack",
    "DatasetAttack": "returns other images of the data set",
    "GenAttack": "needs target classes",
    "SpatialAttack": "shifts and turns images and keeps to no norm",
}


@cache
def offered() -> dict[str, list[str]]:
    """Names of attacks by library, sorted; libraries that are not installed are left out.

    ``LIBRARY:NAME`` is the name on the command line.
    """
    foolbox = {name for name in _imported_names("foolbox", "attacks/__init__.py") if name not in FOOLBOX_UNUSABLE}
    found = {
        "torchattacks": set(_imported_names("torchattacks", "__init__.py")) - {"Attack", "LGV", "MultiAttack"},
        "foolbox": {name.removesuffix(FOOLBOX_SUFFIX) for name in foolbox - {FOOLBOX_SUFFIX}},
        "adv-lib": set(ADV_LIB) & set(_imported_names("adv_lib", "attacks/__init__.py")),
        "art": set(ART) & set(_imported_names("art", "attacks/evasion/__init__.py")),
    }
    return {library: sorted(names) for library, names in found.items() if names}


def alike(name: str) -> list[str]:
    """Attacks of libraries with this name but for a norm before it: DeepFool and L2DeepFool for "deepfool"."""
    pattern = re.compile(rf"(l0|l1|l2|linf|linfinity)?{re.escape(name)}(attack)?", re.IGNORECASE)
    return [f"{library}:{each}" for library, names in offered().items() for each in names if pattern.fullmatch(each)]


def _imported_names(package: str, file: str) -> list[str]:
    """Names that one file of an installed package imports or assigns, read without importing the package.

    Args:
        package: name of a top-level package.
        file: path inside it ("attacks/__init__.py").

    Returns:
        Public names in order; empty if the package is not installed.
    """
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        return []
    tree = ast.parse((Path(found.origin).parent / file).read_text(encoding="utf-8"))
    imports = [alias for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names]
    names = [alias.asname or alias.name for alias in imports]
    targets = [target for node in tree.body if isinstance(node, ast.Assign) for target in node.targets]
    names += [target.id for target in targets if isinstance(target, ast.Name)]
    return [name for name in names if not name.startswith("_")]
