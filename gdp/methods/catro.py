"""How well channels tell classes apart: after CATRO (Hu et al., arXiv 2110.10921)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import Seen
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import uniform
from gdp.methods.maps import first_shown, mean_over_entries

MAX_ITERATIONS = 20  # of the trace ratio; a few are enough


@dataclass(frozen=True)
class CATRO(GlidingGates):
    """Keep channels with the largest ratio of scatter between classes to scatter within them.

    A channel is pooled to one number per sample. With b_c the variance of the means of classes and w_c that of samples
    around these, a set S of channels has the trace ratio `sum_S b_c / sum_S (w_c + ridge w)`, w being the mean of the
    group. The best S of a given size holds the largest `s_c = b_c - r (w_c + ridge w)` at its own ratio r, which is
    found by iteration; the score is s_c, and the same fraction of every group goes.

    Both variances are estimated within a batch, without bias by its size, as a running mean over batches: the number of
    classes need not be known, and no mean of a class is one of earlier weights.

    Attributes:
        memory: weight of the past in the running mean, in [0, 1).
        ridge: what is added to the variance within classes. With 0, a channel that is the same for all samples has a
            score of 0, which is about the mean of the best set.

    Source: the class-aware trace ratio of CATRO (Hu et al., IEEE TNNLS 2023, arXiv 2110.10921), as its abstract names
    it; the iteration is that of Nie et al. (AAAI 2008). Own: all formulas, since the paper's could not be read; a
    fraction that is the same for all groups, the root of the target, in place of its two greedy stages.

    Raises:
        GDPError: an option is out of range.
    """

    memory: float = 0.9
    ridge: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.memory < 1 and self.ridge >= 0):
            raise GDPError(
                f"Expected memory in [0, 1) and ridge of at least 0, but got {self.memory} and {self.ridge}."
            )

    @property
    def observed_batches(self) -> int:
        """One batch before every choice."""
        return 1

    @property
    def needs_labels(self) -> bool:
        """Whether a batch has to be a pair of inputs and classes."""
        return True

    def init_state(self, channels: int) -> MethodState:
        """Return variances of 0 between classes and within them."""
        return {name: torch.zeros(channels, dtype=torch.float32) for name in ("between", "within")}

    def observe(self, state: MethodState, seen: Seen, context: StepContext) -> MethodState:
        """Take the variances of a batch into the running mean; nothing is known where no two samples share a class."""
        if seen.labels is None or len(seen.labels.unique()) == len(seen.labels):
            return state
        labels, channels = seen.labels, len(state["within"])
        of_samples = [a for a in seen.activations if len(a.tensor) == len(labels)]
        found = [(channel, *variances(maps, labels)) for channel, maps in first_shown(of_samples, context.may_stay)]
        fresh = dict(state)
        for place, name in ((1, "between"), (2, "within")):
            mean, is_shown = mean_over_entries(((item[0], item[place]) for item in found), channels)
            past = state[name]
            moved = self.memory * past + (1 - self.memory) * mean.to(past.device)
            fresh[name] = torch.where(is_shown.to(past.device), moved, past)
        return fresh

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return an importance that orders the channels of a group by `b_c - r (w_c + ridge w)`."""
        between, within = (state[name].cpu().double() for name in ("between", "within"))
        score, may_stay = torch.zeros_like(between), context.may_stay
        for span in context.gates.spans.values():
            channels = span.start + torch.nonzero(may_stay[span]).flatten()
            kept = min(len(channels), math.ceil(context.target**0.5 * (span.stop - span.start)))
            regular = within[channels] + self.ridge * within[channels].mean()
            score[channels] = trace_ratio_scores(between[channels], regular, kept)
        return uniform(score, context)


def variances(maps: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the variances of pooled activations between classes and within classes, estimated without bias.

    From N samples of K classes, with sums of squares B and W: `W / (N - K)` within and `(B - (K - 1) W / (N - K)) / N`
    between, as in the analysis of variance.

    Args:
        maps: shape (samples, entries, ...).
        labels: classes of the samples, shape (samples,), two of them equal at least.

    Returns:
        Two numbers per entry, each of shape (entries,); the first may be below 0.
    """
    pooled = maps.flatten(2).mean(2) if maps.dim() > 2 else maps
    pooled = pooled - pooled.mean(0)
    _, place, count = labels.to(maps.device).unique(return_inverse=True, return_counts=True)
    means = pooled.new_zeros(len(count), pooled.shape[1]).index_add_(0, place, pooled) / count[:, None]
    within = (pooled - means[place]).square().sum(0) / (len(maps) - len(count))
    return ((means.square() * count[:, None]).sum(0) - (len(count) - 1) * within) / len(maps), within


def trace_ratio_scores(between: Tensor, within: Tensor, kept: int) -> Tensor:
    """Return `b - r w` of every channel, r being the trace ratio of the best set of that size.

    Args:
        between: b, shape (channels,).
        within: w, of the same shape.
        kept: size of the set.
    """
    score, ratio = between, -1.0
    for _ in range(MAX_ITERATIONS):
        best = score.argsort(descending=True, stable=True)[:kept]
        before, ratio = ratio, float(between[best].sum() / within[best].sum().clamp_min(1e-30))
        score = between - ratio * within
        if ratio == before:
            break
    return score
