"""Training objectives: modules that map images and targets to losses. `CausalObjective` is the one of the paper."""

from causalcxr.objectives.agreement import AgreementObjective
from causalcxr.objectives.borrow_regions import BorrowRegions
from causalcxr.objectives.causal import CausalObjective
from causalcxr.objectives.classification import ClassificationObjective

__all__ = ["AgreementObjective", "BorrowRegions", "CausalObjective", "ClassificationObjective"]
