"""Check the library on a GPU, and measure its speed and bottlenecks, in one command.

    PYTHONPATH=$PWD python examples/research/gpu/run.py --output runs/gpu

The parts run one after the other, each in its own process. A failing part does not stop the next. The README next to
this file describes each part.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

RESEARCH = Path(__file__).resolve().parents[1]
REPOSITORY = RESEARCH.parents[1]


def commands(output: Path, device: str, small: bool) -> dict[str, list[str]]:
    """Return the Python arguments of each part."""
    chosen = ["gpu", "tests"] if device == "cuda" else ["not gpu", "tests/gpu"]
    tests = ["-m", "pytest", "-q", "-m", chosen[0], str(REPOSITORY / chosen[1])]
    trial = ["--small"] if small else []
    films = ["--films=2", "--side=128", "--rounds=1"] if small else ["--films=768", "--rounds=2"]
    images = ["--pixels=64", "--films=16", "--batch-size=2", "--seconds=0.1"] if small else []
    workers = [] if small else ["--workers=16"]
    return {
        "correct": [*tests, f"--rootdir={REPOSITORY}", f"--junitxml={output / 'correct.xml'}"],
        "compare": ["-m", "benchmarks.compare", f"--device={device}", *trial],
        "reading": ["-m", "benchmarks.reading", *images, *workers],
        "predict": ["-m", "benchmarks.predict", f"--device={device}", "--batch-size=128", *films, *workers],
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--parts", nargs="+", choices=("correct", "compare", "reading", "predict"), help="default: all")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="shrink all sizes: a test run, not a measurement")
    args = parser.parse_args(argv)
    output = args.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    found = os.pathsep.join([str(RESEARCH), str(REPOSITORY), os.environ.get("PYTHONPATH", "")])
    env, failed = os.environ | {"PYTHONPATH": found, "HF_HUB_OFFLINE": "1"}, []
    for part, command in commands(output, args.device, args.small).items():
        if part in (args.parts or (part,)):
            kept = [] if part == "correct" else [f"--json={output / f'{part}_gpu.json'}"]
            if subprocess.run([sys.executable, *command, *kept], env=env).returncode:
                failed.append(part)
    print(f"\nfailed: {', '.join(failed)}" if failed else "\nall parts ran", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
