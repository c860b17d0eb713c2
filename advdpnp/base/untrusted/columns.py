"""Names that a table gives to its own columns, so that attacks cannot have them."""

RESERVED = frozenset((
    "model", "method", "architecture", "parameters", "dtype", "samples", "clean", "worst_case", "worst_case_p",
    "worst_case_p_holm", "corruptions", "corruptions_n", "mce", "mce_baseline", "mce_note", "n", "flags",
    "flag_details", "min_separation", "training_seconds", "training_seed", "recipe_hash", "norm", "eps", "eps_text",
    "seed", "dataset", "corruption_source", "weights_hash", "data_hash", "samples_hash", "definitions",
    "attack_definitions", "versions", "device", "date", "command", "forwards", "backwards", "seconds", "sanity_n",
    "standard_autoattack", "source", "venue", "paper", "url", "over", "group", "seeds", "seed_values", "models",
    "against", "threat",
))  # fmt: skip
"""Columns of tables, and so no names of attacks, whose accuracies have a column of their own."""
