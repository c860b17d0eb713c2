"""Evaluation: verdicts per sample, what follows from them, and how it is shown.

Importing this package imports nothing heavy; the modules are:

    evaluate      any number of models on a data set
    memory        one model on arrays in memory (``advdpnp.evaluate``)
    plan, run     what is asked of every model, and how one of them is put through it
    rounding, adversarials
                  adversarial images made compact, and how they are stored and read back
    audit, audit_rows
                  what is stored judged again: image by image, and the rows of a leaderboard
    progress      how an evaluation tells what it does
    unit, store   what a verdict file is of, and how it is written and continued
    results       verdict files read back, and which of them make one row of a table
    flags         signs that a robustness number cannot be trusted
    leaderboard   the table, as data frame, CSV and JSON
    tables        what of it is compared with what; then markdown and latex, the markup
    comparison    which rows answer the same question, and whether chance tells them apart
    pairs         two models, image by image (``advdpnp compare``)
    seeds         mean and spread over training seeds, and over evaluation seeds
    published     rows of RobustBench beside ours
    figures       the pictures
    command, verify_command
                  what the command line does with all of this
"""
