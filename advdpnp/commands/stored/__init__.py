"""Commands on stored results: tables, comparisons, re-evaluation of stored images, conversion of old folders.

None of them searches for an adversarial image.
"""
