"""What importing the package does and does not do."""

import subprocess
import sys
from pathlib import Path

import causalcxr  # noqa: F401  (fills sys.modules)

ROOT = Path(__file__).resolve().parents[1]

# Public names of the design; other people's code depends on them.
PUBLIC = {
    "causalcxr": "AgreementObjective BorrowRegions Calibration CausalCXR CausalHead CausalObjective CausalOutput "
    "Prediction create_model is_model list_models list_pretrained predict push_to_hub save_pretrained",
    "causalcxr.layers": "ACmix BackdoorIntervention CausalDecoder ConfounderBank DisentangledCrossAttention "
    "FeatureLearning GroupLinear",
    "causalcxr.losses": "AsymmetricLoss CausalLoss asymmetric_loss backdoor_loss backdoor_weights classification_loss "
    "uniform_kl_loss",
    "causalcxr.metrics": "BootstrapResult Interval auroc bootstrap_auroc box_iou expected_calibration_error "
    "paired_difference peak_box pointing_game reliability_curve worst_group_auroc",
    "causalcxr.data": "NIH_LABELS NIHChestXray14 SyntheticCXR check_label_names normalise preprocess read_image",
    "causalcxr.explain": "attention_maps evidence_maps overlay",
    "causalcxr.bench": "MARKERS ConfoundedDataset StratifiedImages as_dict evaluate paint predict subsample",
}


def test_public_names() -> None:
    for module, names in PUBLIC.items():
        assert set(names.split()) <= set(sys.modules[module].__all__)
        assert all(hasattr(sys.modules[module], name) for name in sys.modules[module].__all__)


def test_import_needs_the_core_dependencies_only() -> None:
    extras = ["matplotlib", "sklearn", "pydicom", "onnx", "onnxruntime", "captum"]
    code = f"import sys, causalcxr; print([name for name in {extras} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout.strip()) == (0, "[]"), run.stderr
