"""Run the Python and console blocks of a page, in order, in the current folder; a failure ends with a traceback.

A Python block whose first line is ``# name.py`` is written to that file instead. Run as a script: a page registers
what it shows, which must not stay in the process of other tests.
"""

import re
import shlex
import sys
from pathlib import Path

from advdpnp.cli import run


def main(page: Path) -> None:
    sys.path.insert(0, str(Path.cwd()))
    names: dict[str, object] = {"__name__": "page"}
    text = page.read_text(encoding="utf-8")
    for kind, block in re.findall(r"^```(python|console)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if kind == "console":
            for line in re.findall(r"^\$ (.*)$", block, re.MULTILINE):
                print(f"$ {line}", flush=True)
                words = shlex.split(line)
                assert words[0] == "advdpnp", line
                assert run([*words[1:]]) == 0, line
        elif file := re.match(r"# (\w+\.py)\n", block):
            Path(file[1]).write_text(block, encoding="utf-8")
        else:
            print(block, flush=True)
            exec(compile(block, str(page), "exec"), names)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
