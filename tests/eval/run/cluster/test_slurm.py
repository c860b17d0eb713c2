"""The batch script of the documentation, run with programs that write down how they were called."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import advdpnp

PAGE = Path(advdpnp.__file__).resolve().parent.parent / "docs" / "tutorials" / "cluster.md"
PROGRAMS = {
    "sleep": "",
    "scontrol": 'echo "scontrol $*" >> "$CALLS"; printf "node1\\nnode2\\nnode3\\nnode4\\n"',
    "srun": 'echo "srun $*" >> "$CALLS"',
    "advdpnp": 'echo "advdpnp $* on $RAY_ADDRESS" >> "$CALLS"',
}


@pytest.mark.skipif(sys.platform == "win32", reason="runs bash")
def test_ray_is_started_on_every_machine_and_the_evaluation_once(tmp_path: Path) -> None:
    (script,) = re.findall(
        r"^```sh\n(#!/bin/bash\n.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    for name, does in PROGRAMS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls.txt"
    slurm = {"SLURM_JOB_NODELIST": "node[1-4]", "SLURM_NNODES": "4", "CALLS": str(calls)}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-eu", "-c", f"{script}\nwait"], env=os.environ | slurm | {"PATH": path}, check=True)
    assert sorted(calls.read_text().splitlines()) == [
        "advdpnp eval runs/* --attacks all --cluster auto on node1:6379",
        "scontrol show hostnames node[1-4]",
        "srun --nodes=1 --ntasks=1 -w node1 ray start --head --port=6379 --block",
        "srun --nodes=3 --ntasks=3 --exclude=node1 ray start --address=node1:6379 --block",
    ]
