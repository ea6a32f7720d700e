"""Quantities derived from a spectrum: the Kaplan–Yorke dimension and the sum of the positive exponents."""

import math

import torch
from torch import Tensor

from separatrix.analysis.run.statistics import standard_error

SURE = 2  # standard errors within which a sum of exponents counts as zero


def kaplan_yorke(exponents: Tensor, rates: Tensor, duration: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The Kaplan–Yorke dimension and its standard error, each (*batch), by the delta method on the block averages."""
    k = exponents.shape[-1]
    sums = exponents.cumsum(-1)
    doubt = SURE * standard_error(rates.cumsum(-1), duration).nan_to_num(0.0)
    inside = (sums >= -doubt).long().cumprod(-1)
    j = inside.sum(-1, keepdim=True)
    beyond = exponents.gather(-1, j.clamp(max=k - 1))
    total = torch.where(j > 0, sums.gather(-1, (j - 1).clamp(min=0)), 0.0)
    slope = torch.where(beyond.isinf(), 0.0, 1 / beyond.abs())
    part = torch.where(j < k, total * slope, 0.0 if k == dim else math.nan)
    dimension = (j + part)[..., 0].masked_fill(exponents.isnan().any(-1), math.nan)
    summed = (rates * inside).sum(-1, keepdim=True)
    next_rate = rates.gather(-1, j.clamp(max=k - 1).expand(len(rates), *j.shape))
    influence = torch.where((j < k) & (j > 0), summed * slope + total * slope**2 * next_rate, 0.0)
    error = standard_error(influence, duration)[..., 0]
    return dimension, error.masked_fill(dimension.isnan(), math.nan)


def positive_sum(exponents: Tensor, rates: Tensor, duration: Tensor) -> tuple[Tensor, Tensor]:
    """Σ of the positive exponents and its standard error, each (*batch)."""
    positive = exponents > 0
    total = exponents.where(positive, 0.0).sum(-1).masked_fill(exponents.isnan().any(-1), math.nan)
    error = standard_error((rates * positive).sum(-1, keepdim=True), duration)[..., 0]
    return total, error.masked_fill(total.isnan(), math.nan)
