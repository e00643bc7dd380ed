"""The losses in plain Python numbers (arXiv 2305.12072, Eq. 4, 5, 7, 8; asymmetric loss: Ridnik et al., ICCV 2021).

Eq. 4    l(z, y) = -y log p - (1 - y) log(1 - p),  p = sigmoid(z), over the known labels (known: y is not NaN)
ASL      l(z, y) = -y (1 - p)^g+ log p - (1 - y) p_m^g- log(1 - p_m),  p_m = max(p - m, 0)
Eq. 5    KL(u || q) = sum_k u_k log(u_k / q_k),  u uniform over K labels and q = softmax(z), or over {0, 1} and
         q = (p, 1 - p), averaged over labels; minimised
Eq. 7    sum_s P(c_s) l(z_s, y), averaged over images and known labels
Eq. 8    L = L_sl + a1 L_conf + a2 L_bd
"""

import math
from fractions import Fraction


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def cross_entropy(z, y):
    return -y * math.log(sigmoid(z)) - (1 - y) * math.log(1 - sigmoid(z))


def asymmetric(z, y, *, gamma_pos, gamma_neg, margin):
    p = sigmoid(z)
    shifted = max(p - margin, 0.0)
    return -y * (1 - p) ** gamma_pos * math.log(p) - (1 - y) * shifted**gamma_neg * math.log(1 - shifted)


def known_mean(logits, targets, loss, weights=None):
    """Return the mean of the (weighted) loss over the known labels of all images."""
    total, known = 0.0, 0
    for i, row in enumerate(targets):
        for k, y in enumerate(row):
            if not math.isnan(y):
                total += loss(logits[i][k], y) * (1.0 if weights is None else weights[i][k])
                known += 1
    return total / known if known else 0.0


def uniform_kl(logits, *, uniform):
    """Return the KL divergence between uniform and one image's prediction."""
    num_labels = len(logits)
    if uniform == "categorical":
        total = sum(math.exp(z) for z in logits)
        return sum(1 / num_labels * math.log((1 / num_labels) / (math.exp(z) / total)) for z in logits)
    return sum(0.5 * math.log(0.5 / q) for z in logits for q in (sigmoid(z), 1 - sigmoid(z))) / num_labels


def backdoor(intervened, targets, loss, prior=None, weights=None):
    """Return the sum over confounders s of P(c_s) times the loss with s, averaged over images and known labels."""
    number = len(intervened[0])
    means = [known_mean([of_image[s] for of_image in intervened], targets, loss, weights) for s in range(number)]
    return sum(p * mean for p, mean in zip(prior or [1 / number] * number, means, strict=True))


def backdoor_weights(targets, strata):
    """Return P(y_k) P(c) / P(y_k, c), counted over images with a known label k, and 0 for the others."""
    table = [[0.0] * len(row) for row in targets]
    for k in range(len(targets[0])):
        known = [i for i, row in enumerate(targets) if not math.isnan(row[k])]
        for i in known:
            same_label = sum(targets[j][k] == targets[i][k] for j in known)
            same_stratum = sum(strata[j] == strata[i] for j in known)
            both = sum(targets[j][k] == targets[i][k] and strata[j] == strata[i] for j in known)
            p_label, p_stratum = Fraction(same_label, len(known)), Fraction(same_stratum, len(known))
            table[i][k] = float(p_label * p_stratum / Fraction(both, len(known)))
    return table
