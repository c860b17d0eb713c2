"""The attacks, one file each: what to ask the model next, given its last answer.

No model, no loop and no judgement here: the engine has those.
"""
