"""One compiled side, in a process of its own, so that several compile at once: `speed.py` starts it and tells it when.

It writes "ready SECONDS GIB" when the graph is compiled, and for each line that it reads the milliseconds of one call.
"""

import argparse
import sys
import time

import torch

from gpu.sides import Evaluation, Training, batch_of, build
from gpu.timing import allocated_gib, milliseconds, peak_gib, synchronize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--mode", choices=("training", "evaluation"), required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--pixels", type=int, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--backend", required=True)
    parser.add_argument("--seed", type=int, required=True)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    objective = build(args.model, args.device)
    batch = batch_of(args.batch, args.pixels, args.device)
    started = time.perf_counter()
    if args.mode == "training":
        step = Training(objective, torch.compile(objective, backend=args.backend), batch, args.device)
    else:
        step = Evaluation(objective, torch.compile(objective.model, backend=args.backend), batch, args.device)
    for _ in range(4):
        step()
    synchronize(args.device)
    seconds = time.perf_counter() - started
    peak = peak_gib(step, args.device) or 0.0
    print(f"ready {seconds:.1f} {allocated_gib(args.device) + peak}", flush=True)
    for _ in sys.stdin:
        print(milliseconds(step, args.device), flush=True)


if __name__ == "__main__":
    main()
