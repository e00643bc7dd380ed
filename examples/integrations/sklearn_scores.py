"""Evaluate a causal model with scikit-learn: AUROC, reliability curve, Platt scaling and classification report.

    python examples/integrations/sklearn_scores.py

AUROC and reliability curve equal those of `causalcxr.metrics`, which also accepts unknown targets (NaN). scikit-learn
does not, so drop those images label by label.
"""

import numpy as np
import torch
from sklearn.calibration import calibration_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import classification_report, roc_auc_score

import causalcxr
from causalcxr.data import SyntheticCXR
from causalcxr.metrics import auroc, expected_calibration_error

LABELS = ["Cardiomegaly", "Mass"]


def platt_scale(fit_on: np.ndarray, targets: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (N, K) of logits (N, K), from one logistic regression per label fitted on `fit_on`."""
    columns = []
    for k in range(logits.shape[1]):
        scaling = LogisticRegression(C=np.inf).fit(fit_on[:, [k]], targets[:, k])
        columns.append(scaling.predict_proba(logits[:, [k]])[:, 1])
    return np.stack(columns, axis=1)


def main() -> None:
    model = causalcxr.create_model("causal_efficientnet_lite0", pretrained=True).eval()
    columns = [model.label_names.index(label) for label in LABELS]
    logits, targets = [], []
    for seed in (0, 1):  # images to fit on, and images to test on
        films = SyntheticCXR(80, image_size=192, labels=LABELS, prevalence=0.3, seed=seed)
        with torch.no_grad():
            scores = torch.cat([model(model.preprocess(image)) for image, _ in films])
        logits.append(scores[:, columns].double().numpy())
        targets.append(films.targets.numpy())
    raw = 1 / (1 + np.exp(-logits[1]))
    scaled = platt_scale(logits[0], targets[0], logits[1])

    theirs = roc_auc_score(targets[1], logits[1], average=None)
    print("AUROC  scikit-learn", theirs, "causalcxr", auroc(logits[1], targets[1]))
    frequency, confidence = calibration_curve(targets[1][:, 0], scaled[:, 0], n_bins=5)
    print("reliability of Cardiomegaly  predicted", confidence.round(2), "observed", frequency.round(2))
    print("calibration error  raw", expected_calibration_error(raw, targets[1], n_bins=5).round(3), end="  ")
    print("after Platt scaling", expected_calibration_error(scaled, targets[1], n_bins=5).round(3))
    print(classification_report(targets[1], scaled > 0.3, target_names=LABELS, zero_division=0))


if __name__ == "__main__":
    main()
