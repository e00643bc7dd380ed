"""Calibration by exhaustive search: temperatures on ever finer grids, and every threshold between two images.

Temperature   T that minimises the mean of log(1 + exp(-m / T)), m = z for known targets of 1 and -z for those of 0
Youden's J    TP / P + TN / N - 1 of the images with a probability at or above the threshold
F1            2 TP / (2 TP + FP + FN)
"""

import itertools
import math
from fractions import Fraction


def cross_entropy(logits, targets, temperature):
    losses = []
    for logit_row, target_row in zip(logits, targets, strict=True):
        for z, y in zip(logit_row, target_row, strict=True):
            if not math.isnan(y):
                margin = z / temperature if y == 1 else -z / temperature
                losses.append(math.log1p(math.exp(-margin)))
    return math.fsum(losses) / len(losses)


def temperature(logits, targets):
    low, high = math.log(0.1), math.log(10)
    for _ in range(10):
        grid = [low + (high - low) * i / 20 for i in range(21)]
        best = min(range(21), key=lambda i: cross_entropy(logits, targets, math.exp(grid[i])))
        low, high = grid[max(best - 1, 0)], grid[min(best + 1, 20)]
    return math.exp((low + high) / 2)


def quality(probabilities, targets, threshold, criterion):
    counts = {(found, y): 0 for found in (True, False) for y in (0, 1)}
    for p, y in zip(probabilities, targets, strict=True):
        if not math.isnan(y):
            counts[p >= threshold, int(y)] += 1
    tp, fn, fp, tn = counts[True, 1], counts[False, 1], counts[True, 0], counts[False, 0]
    if criterion == "youden":
        return Fraction(tp, tp + fn) + Fraction(tn, tn + fp) - 1
    return Fraction(2 * tp, 2 * tp + fp + fn)


def threshold(probabilities, targets, criterion):
    """Return the highest of the best thresholds halfway between neighbouring values, including 0."""
    known = {p for p, y in zip(probabilities, targets, strict=True) if not math.isnan(y)}
    points = [0.0, *sorted(known)]
    halfway = [(a + b) / 2 for a, b in itertools.pairwise(points)]
    return max(halfway, key=lambda t: (quality(probabilities, targets, t, criterion), t))
