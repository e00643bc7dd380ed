"""What to train with: modules from images and targets to losses. Only the first is in the paper."""

from causalcxr.objectives.agreement import AgreementObjective
from causalcxr.objectives.borrow_regions import BorrowRegions
from causalcxr.objectives.causal import CausalObjective
from causalcxr.objectives.classification import ClassificationObjective

__all__ = ["AgreementObjective", "BorrowRegions", "CausalObjective", "ClassificationObjective"]
