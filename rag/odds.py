"""Log odds, as logistic regressions and cross-encoders give them, as probabilities."""

import math


def sigmoid(logit: float) -> float:
    """1 / (1 + exp(-logit)), for any logit."""
    return 1 / (1 + math.exp(-logit)) if logit > -700 else 0.0  # beyond that exp overflows
