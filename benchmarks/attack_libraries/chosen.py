"""The attacks of the table. A number at the end sets the steps where a library's default costs too much here."""

RADII = {"linf": "2/255", "l2": "0.25", "l1": "3", "l0": "5"}

CHOSEN = {
    "linf": """
        fgsm pgd-20 cw apgd-ce
        torchattacks:FGSM torchattacks:BIM torchattacks:PGD torchattacks:MIFGSM torchattacks:Jitter torchattacks:APGD
        foolbox:FGSM foolbox:LinfBasicIterative foolbox:LinfPGD foolbox:LinfDeepFool foolbox:LInfFMN
        adv-lib:fmn adv-lib:fmn-100 adv-lib:pgd_linf adv-lib:df adv-lib:tr adv-lib:apgd
        art:FastGradientMethod art:BasicIterativeMethod art:ProjectedGradientDescent art:MomentumIterativeMethod
        art:SquareAttack foolbox:LinfAdamPGD fast apgd-t pyautoattack:apgd-ce pyautoattack:apgd-t
        adv-lib:apgd_targeted torchattacks:APGDT adv-lib:pdpgd adv-lib:fab torchattacks:FAB fab-t pyautoattack:fab-t
        adv-lib:carlini_wagner_linf-100 art:AutoProjectedGradientDescent foolbox:LinfinityBrendelBethge-50
        torchattacks:Square square pyautoattack:square autoattack pyautoattack torchattacks:AutoAttack
        art:AutoConjugateGradient
    """,
    "l2": """
        pgd-20 apgd-ce
        torchattacks:PGDL2 torchattacks:CW torchattacks:APGD torchattacks:DeepFool
        foolbox:FGM foolbox:L2PGD foolbox:L2DeepFool foolbox:DDN foolbox:L2FMN
        adv-lib:fmn adv-lib:ddn adv-lib:fmn-100 adv-lib:df adv-lib:tr adv-lib:sdf adv-lib:apgd adv-lib:alma-100
        art:FastGradientMethod art:ProjectedGradientDescent foolbox:NewtonFool apgd-t
        adv-lib:pdgd adv-lib:pdpgd art:CarliniL2Method cw-l2 adv-lib:alma fab-t art:DeepFool
        adv-lib:carlini_wagner_l2-100 foolbox:L2CarliniWagner-100 foolbox:L2BrendelBethge-50
        torchattacks:Square square autoattack pyautoattack torchattacks:AutoAttack
    """,
    "l1": """
        apgd-ce apgd-t
        foolbox:SparseL1Descent foolbox:L1PGD foolbox:L1FMN adv-lib:fmn-100 adv-lib:apgd adv-lib:alma-100
        art:ProjectedGradientDescent pyautoattack:apgd-ce pyautoattack:apgd-t adv-lib:pdpgd torchattacks:EADL1
        torchattacks:EADEN foolbox:EAD-100 art:AutoProjectedGradientDescent adv-lib:alma adv-lib:fab
        foolbox:L1BrendelBethge-50 pyautoattack
    """,
    "l0": """
        adv-lib:sigma_zero-100 foolbox:L0FMN adv-lib:fmn-100 adv-lib:vfga art:SaliencyMapMethod
        torchattacks:OnePixel torchattacks:Pixle adv-lib:pdpgd torchattacks:SparseFool adv-lib:sigma_zero
        foolbox:L0BrendelBethge-50 torchattacks:JSMA
    """,
}
"""Cheap ones first: a run that is stopped lacks the expensive ones."""


def in_turns() -> list[tuple[str, str]]:
    """Norm and name of every attack, the norms in turns, so that a run that is stopped has some of each."""
    left = {norm: names.split() for norm, names in CHOSEN.items()}
    longest = max(map(len, left.values()))
    return [(norm, names[place]) for place in range(longest) for norm, names in left.items() if place < len(names)]
