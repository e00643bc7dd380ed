"""Run the parts one after the other, each in a process of its own, and print a table of what they measured.

    PYTHONPATH=$PWD python examples/research/gpu/run.py --output runs/gpu

The README beside this file says what each part does.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

RESEARCH = Path(__file__).resolve().parents[1]
PARTS = ("correct", "loop", "speed", "data")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="shrink all sizes: a trial of the program, no measurement")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commit", default="", help="commit of the code, where there is no git")
    args = parser.parse_args(argv)
    options = [f"--output={args.output.resolve()}", f"--device={args.device}", f"--seed={args.seed}"]
    options += [f"--commit={args.commit}", *(["--small"] * args.small)]
    found = os.pathsep.join([str(RESEARCH), str(RESEARCH.parents[1]), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": found, "HF_HUB_OFFLINE": "1"}
    files = [args.output / f"{part}.json" for part in args.parts]
    for file in files:
        file.unlink(missing_ok=True)  # of an earlier run
    failed = [
        part
        for part in args.parts
        if subprocess.run([sys.executable, "-m", f"gpu.{part}", *options], env=env).returncode
    ]
    written = [str(file) for file in files if file.exists()]
    if written:
        subprocess.run([sys.executable, str(RESEARCH / "gpu" / "table.py"), *written], check=True)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall parts ran", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
