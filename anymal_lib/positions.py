"""Where learned positions start.

Independent random positions say nothing of who is whose neighbour, and small adapters that train
for minutes hardly find it out: on the mini clips they mistook directions of motion far more often.
"""

from __future__ import annotations

import torch
from torch import Tensor

_COSINES = 8  # at most; the lowest ones


def smooth_curve(length: int, width: int) -> Tensor:
    """(length, width): random sums of the lowest cosines over the length, of about unit variance.

    A length of one has no place to tell apart from others, and gets zeros.
    """
    place = (torch.arange(length) + 0.5) / length
    count = max(1, min(_COSINES, length - 1))
    cosines = torch.cos(torch.pi * torch.outer(place, torch.arange(1, count + 1)))
    return cosines @ torch.randn(count, width) * (2 / count) ** 0.5
