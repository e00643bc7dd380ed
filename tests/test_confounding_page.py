"""What README and docs/confounding.md quote of the results on confounding is what the results are."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "confounding"


def _mean(study: str, confounder: str, correlation: float, method: str, figure: str = "reversed") -> float:
    """Mean over seeds: AUROC of a test, or of the worst group on `none`, or the part of the gap closed, in percent."""

    def mean_of(method: str, trained_at: float, test: str, kind: str = "auroc") -> float:
        asked = (confounder, correlation, method, trained_at)
        values = [
            run["result"]["tests"][test][kind]["value"]
            for run in json.loads((RESULTS / f"{study}.json").read_text())["runs"]
            if (run["confounder"], run["correlation"], run["method"], run["trained_at"]) == asked
        ]
        return sum(values) / len(values)

    if figure == "worst group":
        return mean_of(method, correlation, "none", "worst_group")
    if figure == "reference":
        return mean_of(method, 0.5, "reversed")
    if figure == "without markers":
        return mean_of(method, 0.5, "absent")
    value = mean_of(method, correlation, "reversed")
    if figure != "closed":
        return value
    plain, reference = mean_of("plain", correlation, "reversed"), mean_of("plain", 0.5, "reversed")
    return 100 * (value - plain) / (reference - plain)


TUBES, TUBES_98 = ("pneumonia", "tube", 0.95), ("pneumonia", "tube", 0.98)
LETTERS, LETTERS_98 = ("pneumonia", "letter", 0.95), ("pneumonia", "letter", 0.98)
STAMPS, VIEW = ("nih_portable", "portable", 0.95), ("nih_view", "view", 0.9)
CLAIMS = [
    ("give {:.3f} for tubes at 0.95, {:.3f} at 0.98", [(*at, "backdoor_sampling") for at in (TUBES, TUBES_98)]),
    ("the worst group has {:.3f};", [(*TUBES, "backdoor_sampling", "worst group")]),
    ("group DRO has {:.3f} and {:.3f}", [(*TUBES, "group_dro"), (*TUBES, "group_dro", "worst group")]),
    ("by them gives {:.3f} and {:.3f}", [(*at, "backdoor_weights") for at in (TUBES, TUBES_98)]),
    ("with {:.3f} in the worst group", [(*TUBES, "backdoor_weights", "worst group")]),
    ("{:.3f} against {:.3f}. All", [(*LETTERS_98, name) for name in ("backdoor_weights", "backdoor_sampling")]),
    ("({:.3f}, plain {:.3f}). A bank", [(*TUBES, name) for name in ("last_layer", "plain")]),
    ("much ({:.3f}, without {:.3f})", [(*TUBES, name) for name in ("stratified_bank", "causal")]),
    (
        "closes {:.0f} % of the gap for tubes at 0.95 and {:.0f} %",
        [(*at, "agreement", "closed") for at in (TUBES, TUBES_98)],
    ),
    ("and {:.0f} % for letters at 0.98, with the same", [(*LETTERS_98, "agreement", "closed")]),
    (
        "from {:.3f} to {:.3f}, of {:.3f}",
        [(*LETTERS, "plain"), (*LETTERS, "agreement"), (*LETTERS, "plain", "reference")],
    ),
    (
        "it has {:.3f} on images without markers, plain {:.3f}",
        [(*TUBES, name, "without markers") for name in ("agreement", "plain")],
    ),
    ("it closes {:.0f} % of the tube's gap", [(*TUBES, "agreement_random", "closed")]),
    ('("thorax")` closes {:.0f} %', [(*LETTERS_98, "borrow_thorax", "closed")]),
    ("({:.3f}, plain {:.3f}), since the finding", [(*TUBES, name) for name in ("borrow_thorax", "plain")]),
    ("boxes close {:.0f} %", [(*TUBES, "borrow_large_boxes", "closed")]),
    ("({:.3f} at 0.98, plain {:.3f})", [(*LETTERS_98, name) for name in ("borrow_large_boxes", "plain")]),
    ("CutMix ({:.3f}) and random erasing ({:.3f})", [(*TUBES, name) for name in ("cutmix", "random_erasing")]),
    ("boxes ({:.3f}); Cutout ({:.3f})", [(*TUBES, name) for name in ("borrow_boxes", "cutout")]),
    ("cropping ({:.3f}) harm", [(*TUBES, "centre_crop")]),
    ("{:.3f} for tubes at 0.95, {:.3f} with losses", [(*TUBES, name) for name in ("causal", "as_printed")]),
    ("L_conf and L_bd has {:.3f}", [(*TUBES, "label_queries")]),
    ("confounding branch | {:.3f} |", [(*TUBES, "causal_pooled")]),
    ("uncorrelated over the batch | {:.3f} |", [(*TUBES, "causal_independent")]),
    ("all but what the model attends to | {:.3f} |", [(*TUBES, "causal_keep_attended")]),
    ("that it attends to most | {:.3f} |", [(*TUBES, "causal_borrow_attended")]),
    ("on the causal model | {:.3f} |", [(*TUBES, "causal_agreement")]),
    ("group DRO, plain model | {:.3f} |", [(*TUBES, "clusters")]),
    ("`backdoor_weights` | {:.3f} |", [(*TUBES, "causal_weights")]),
    ("points ({:.3f} for a plain model)", [(*TUBES, "agreement")]),
    ("by the weights closes {:.0f} % of the gap", [(*STAMPS, "backdoor_sampling", "closed")]),
    ("group DRO {:.0f} %, and the", [(*STAMPS, "group_dro", "closed")]),
    ("weighted loss {:.0f} %. Of", [(*STAMPS, "backdoor_weights", "closed")]),
    ("closes {:.0f} %, and", [(*STAMPS, "borrow_thorax_always", "closed")]),
    ("and {:.0f} % with the 0.8", [(*STAMPS, "borrow_thorax", "closed")]),
    ("`AgreementObjective` closes {:.0f} %: an", [(*STAMPS, "agreement", "closed")]),
    ("it closes {:.0f} % of the gap, the weighted", [(*VIEW, "last_layer", "closed")]),
    ("the weighted loss {:.0f} %, drawing", [(*VIEW, "backdoor_weights", "closed")]),
    (
        "drawing {:.0f} % and group DRO {:.0f} %",
        [(*VIEW, name, "closed") for name in ("backdoor_sampling", "group_dro")],
    ),
]


@pytest.mark.parametrize(("claim", "figures"), CLAIMS)
def test_text_on_confounding_quotes_the_results(claim: str, figures: list[tuple[Any, ...]]) -> None:
    text = " ".join((ROOT / "docs" / "confounding.md").read_text().split("## What was found")[1].split())
    assert claim.format(*(_mean(*figure) for figure in figures)) in text


def test_readme_quotes_the_results_on_confounding() -> None:
    text = (ROOT / "README.md").read_text().split("**Does it remove confounding?")[1].split("\n## ")[0]
    quoted = re.findall(r"\| (0\.\d{3}) \|", text)
    methods = ("plain", "causal", "backdoor_sampling", "agreement")
    expected = [_mean(*TUBES, "plain", "reference"), *(_mean(*TUBES, method) for method in methods)]
    assert quoted == [f"{value:.3f}" for value in expected]
