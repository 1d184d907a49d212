"""Learning rates over the share of training that is done, in [0, 1]."""

import math
from collections.abc import Callable


def warmup_cosine(start: float, peak: float, warmup: float) -> Callable[[float], float]:
    """From `start` up to `peak` during the first `warmup` share, then by a cosine down to `start`.

    Source: thesis, appendix C.2 (lr_start, lr_max, warmup_epoch_percentage).
    """

    def rate(done: float) -> float:
        if done < warmup:
            return start + (peak - start) * done / warmup
        left = (done - warmup) / max(1e-9, 1.0 - warmup)
        return start + (peak - start) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, left)))

    return rate
