"""Commands that are killed, stopped, left without disk space or given damaged files: what is lost, and what they say.

    python -m benchmarks.fault_injection --jobs 4 --out results/benchmarks

Every row is a command on digits with tiny settings and a fault. Then the cause is removed and the same command is run
again. A row passes if the command ended as it should, with at most one sentence and no traceback, and if the files in
the end are those of an undisturbed run, apart from times: weights, verdicts, images, tables and figures, bit for bit,
and no unfinished file. Full and read-only disks are small file systems in memory, which need root.
"""
