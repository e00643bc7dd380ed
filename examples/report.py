"""The tables of an evaluation as Markdown."""

from typing import Any

from causalcxr.data import NIH_LABELS
from localisation import IOU_THRESHOLDS
from published import OFFICIAL_LIST, PAPER, PAPER_MEAN


def markdown(results: dict[str, Any]) -> str:
    """Return the report of `results.json`: findings, groups, calibration, boxes, and what has been published."""
    models, records = results["models"], results["records_alone"]
    parts = [
        f"{results['images']['images']} images of {results['patients']} patients ({results['split']}); in brackets "
        f"95 % intervals from {results['resamples']} resamples of patients.",
        findings(models, records),
        *comparisons(models),
        groups(models),
        others(models),
        localisation(models),
        published(),
    ]
    return "\n\n".join(part for part in parts if part)


def rows(header: list[str], body: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *body]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def with_interval(figures: dict[str, Any], key: str, digits: int = 3) -> str:
    low, high = figures["interval"]
    return f"{figures[key]:.{digits}f} ({low:.{digits}f}, {high:.{digits}f})"


def findings(models: dict[str, Any], records: dict[str, Any]) -> str:
    """AUROC of each finding: a column a model, then records alone and the paper's claim."""
    columns = [*models.values(), records]
    body = []
    for label, claimed in zip(NIH_LABELS, PAPER, strict=True):
        cells = [with_interval(column["labels"][label], "auroc") for column in columns]
        body.append([label, str(records["labels"][label]["positives"]), *cells, f"{claimed:.2f}"])
    means = [f"**{with_interval(column, 'mean_auroc')}**" for column in columns]
    body.append(["**mean of 14**", "", *means, f"{PAPER_MEAN}"])
    return rows(["finding", "positives", *models, "records alone", "the paper, on its own list"], body)


def comparisons(models: dict[str, Any]) -> list[str]:
    first, *rest = models
    lines = []
    for name in rest:
        difference = models[name]["difference_from_first"]
        low, high = difference["interval"]
        lines.append(f"{name} minus {first}: {difference['mean_auroc']:+.3f} ({low:+.3f}, {high:+.3f}).")
    return lines


def groups(models: dict[str, Any]) -> str:
    """Mean AUROC within groups, over the labels that are frequent enough in all groups of the division."""
    of_first = next(iter(models.values()))["groups"]
    body = [
        [
            name,
            str(figures["images"]),
            str(len(figures["labels"])),
            *(with_interval(model["groups"][name], "mean_auroc") for model in models.values()),
        ]
        for name, figures in of_first.items()
    ]
    return rows(["mean AUROC within", "images", "findings", *models], body) if body else ""


def others(models: dict[str, Any]) -> str:
    """The three classifiers of causal models, and calibration."""
    names = list(dict.fromkeys(name for model in models.values() for name in model["classifiers"] if name != "plain"))
    body = [
        [
            f"mean AUROC of the {name} classifier",
            *(
                with_interval(model["classifiers"][name], "mean_auroc") if name in model["classifiers"] else ""
                for model in models.values()
            ),
        ]
        for name in names
    ]
    errors = [f"{model['expected_calibration_error']['mean']:.3f}" for model in models.values()]
    body.append(["expected calibration error, mean of 14", *errors])
    return rows(["", *models], body)


def localisation(models: dict[str, Any]) -> str:
    """Boxes: a row a model and method."""
    body, seen = [], set()
    for name, model in models.items():
        for method, figures in model["localisation"].items():
            if method == "centre box" and method in seen:
                continue
            seen.add(method)
            body.append(
                [
                    "" if method == "centre box" else name,
                    method,
                    str(figures["findings"]),
                    with_interval(figures["pointing_game"], "mean", 2),
                    with_interval(figures["mean_iou"], "mean", 2),
                    *(f"{share:.2f}" for share in figures["share_with_iou_of"].values()),
                ]
            )
    if not body:
        return ""
    header = ["model", "map", "findings", "pointing game", "mean IoU", *(f"IoU ≥ {t}" for t in IOU_THRESHOLDS)]
    return rows(header, body)


def published() -> str:
    """Means of 14 that were published on the official test list, to compare with where this is the whole of it."""
    shown = [
        f"{name} {' to '.join(f'{v:.3f}' for v in value) if isinstance(value, tuple) else f'{value:.3f}'}"
        for name, value in OFFICIAL_LIST.items()
    ]
    return f"Published means on the whole official test list (25,596 images): {'; '.join(shown)}."
