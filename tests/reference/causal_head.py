"""The head of arXiv 2305.12072 (Fig. 3, Eq. 3 and 6), assembled from the other references.

h_x = MLP_causal(Q),  h_c = MLP_confounding(Qc),  MLP(Q) = Q + W_2 gelu(W_1 Q);
z_x = Phi_x(h_x),  z_c = Phi_c(h_c),  z = Phi(h_x + h_c')
"""

import torch

from reference.backdoor import intervene_all, intervene_others
from reference.comparison import part
from reference.decoder import causal_decoder, two_layers
from reference.feature_learning import feature_learning
from reference.group_linear import group_linear


def causal_head(
    features, weights, position, confounders=None, *, depth, num_heads, complement="normalized", combine="add"
):
    """Return z_x, z_c, z, h_x, h_c and the attention maps."""
    encoded = feature_learning(features, part(weights, "feature_learning"), num_heads=num_heads)
    q, qc, attention = causal_decoder(
        encoded, part(weights, "decoder"), position, depth=depth, num_heads=num_heads, complement=complement
    )
    h_x = q + two_layers(q, part(weights, "causal_mlp"))
    h_c = qc + two_layers(qc, part(weights, "confounder_mlp"))
    phi_x, phi_c, phi = (
        part(weights, name) for name in ("causal_classifier", "confounder_classifier", "intervention.classifier")
    )
    z_x = torch.stack([group_linear(h, **phi_x) for h in h_x])
    z_c = torch.stack([group_linear(h, **phi_c) for h in h_c])
    if confounders is None:
        z = intervene_others(h_x, h_c, **phi, combine=combine)
    else:
        z = intervene_all(h_x, confounders, **phi, combine=combine)
    return z_x, z_c, z, h_x, h_c, attention
