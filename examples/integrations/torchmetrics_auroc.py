"""Batch-wise AUROC and calibration error with torchmetrics, equal to those of `causalcxr.metrics`.

    python examples/integrations/torchmetrics_auroc.py

Three differences matter. Unknown targets are NaN in causalcxr and `ignore_index` in torchmetrics. The AUROC of a label
with one class is NaN in causalcxr and 0 in torchmetrics. And torchmetrics decides batch by batch whether scores are
logits, so it may convert some batches and not others: pass probabilities.
"""

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import BinaryCalibrationError, MultilabelAUROC
from torchmetrics.wrappers import MultioutputWrapper

import causalcxr
from causalcxr.data import NIH_LABELS, SyntheticCXR

UNKNOWN = -1


def as_integers(targets: Tensor) -> Tensor:
    """Convert targets of 0, 1 and NaN to the integers that torchmetrics expects."""
    return targets.nan_to_num(UNKNOWN).long()


def create_metrics(num_labels: int) -> MetricCollection:
    """Return the metrics AUROC and calibration error, each of shape (K,)."""
    calibration = BinaryCalibrationError(n_bins=15, ignore_index=UNKNOWN)
    return MetricCollection(
        {
            "auroc": MultilabelAUROC(num_labels, average="none", ignore_index=UNKNOWN),
            "ece": MultioutputWrapper(calibration, num_labels, remove_nans=False),
        }
    )


def main() -> None:
    torch.manual_seed(0)
    model = causalcxr.create_model("causal_test_resnet", in_chans=1).eval()  # not trained
    films = SyntheticCXR(96, image_size=64, prevalence=0.3)
    metrics = create_metrics(len(NIH_LABELS))
    batches = []
    for images, targets in DataLoader(films, batch_size=16):
        targets[:4, 3] = torch.nan  # as if four reports did not mention infiltration
        with torch.no_grad():
            scores = model(torch.cat([model.preprocess(image, size=64) for image in images])).sigmoid()
        metrics.update(scores, as_integers(targets))
        batches.append((scores, targets))
    scores, targets = map(torch.cat, zip(*batches, strict=True))
    theirs = metrics.compute()
    ours = {
        "auroc": causalcxr.metrics.auroc(scores, targets),
        "ece": causalcxr.metrics.expected_calibration_error(scores, targets),
    }
    print(f"{'':18} AUROC: torchmetrics, causalcxr   calibration error: torchmetrics, causalcxr")
    for k, label in enumerate(NIH_LABELS):
        pairs = (f"{theirs[name][k]:.4f} {ours[name][k]:.4f}" for name in ours)
        print(f"{label:18}", *pairs)


if __name__ == "__main__":
    main()
