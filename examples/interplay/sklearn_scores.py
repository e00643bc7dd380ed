"""Scores of a causal model in scikit-learn: AUROC, a reliability curve, Platt scaling and a report.

    python examples/interplay/sklearn_scores.py

AUROC and reliability curve equal those of `causalcxr.metrics`, which take unknown targets (NaN) as well; scikit-learn
does not, so leave those images out label by label.
"""

from functools import partial

import numpy as np
import torch
from short_training import train
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report, roc_auc_score
from torch.utils.data import DataLoader

import causalcxr
from causalcxr.data import SyntheticCXR
from causalcxr.metrics import auroc, expected_calibration_error


@torch.no_grad()
def predict(model: causalcxr.CausalCXR, films: SyntheticCXR) -> np.ndarray:
    """Logits (N, K)."""
    prepare = partial(causalcxr.data.normalise, cfg=model.pretrained_cfg)
    return torch.cat([model(prepare(images)) for images, _ in DataLoader(films, batch_size=32)]).double().numpy()


def platt_scale(fit_on: np.ndarray, targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, K) of logits (N, K), from one logistic regression a label on other films."""
    columns = []
    for k in range(logits.shape[1]):
        scaling = LogisticRegression(C=np.inf).fit(fit_on[:, [k]], targets[:, k])
        columns.append(scaling.predict_proba(logits[:, [k]])[:, 1])
    return np.stack(columns, axis=1)


def main() -> None:
    options = dict(image_size=64, labels=["Cardiomegaly", "Mass"])
    model = train(SyntheticCXR(640, prevalence=0.5, **options))
    prevalence = 0.2  # rarer than in training
    val = SyntheticCXR(200, prevalence=prevalence, seed=1, **options)
    test = SyntheticCXR(200, prevalence=prevalence, seed=2, **options)
    logits, targets = predict(model, test), test.targets.numpy()
    raw = 1 / (1 + np.exp(-logits))
    scaled = platt_scale(predict(model, val), val.targets.numpy(), logits)

    print("AUROC  scikit-learn", roc_auc_score(targets, logits, average=None), "causalcxr", auroc(logits, targets))
    frequency, confidence = calibration_curve(targets[:, 0], raw[:, 0], n_bins=5)
    print("reliability of Cardiomegaly  predicted", confidence.round(2), "observed", frequency.round(2))
    print("calibration error  raw", expected_calibration_error(raw, targets, n_bins=5).round(3), end="  ")
    print("after Platt scaling", expected_calibration_error(scaled, targets, n_bins=5).round(3))
    print(classification_report(targets, scaled > prevalence, target_names=model.label_names, zero_division=0))


if __name__ == "__main__":
    main()
