"""The attacks, one module each. An attack computes the next images from the last logits and gradients.

Calls of the model, the loop over iterations and verification belong in the engine.
"""
