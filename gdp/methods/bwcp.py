"""BWCP's activation probability: how likely a channel is above zero behind its batch norm, and its penalty."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gdp.errors import GDPError
from gdp.gates import ChannelTensor
from gdp.methods.base import MethodState
from gdp.methods.context import StepContext
from gdp.methods.gliding import GlidingGates
from gdp.methods.helpers import globally
from gdp.methods.weights_of_channels import no_norms

SMALLEST_GAMMA = 1e-12


@dataclass(frozen=True)
class BWCP(GlidingGates):
    """Keep channels by `P = (1 + erf((beta - delta) / (sqrt(2) |gamma|))) / 2`; train with `l1 |gamma| + l2 beta`.

    Behind a batch norm a channel is normal with mean beta and deviation |gamma|, and P is the probability that it is
    above delta. A channel of a residual stream has several norms; their mean counts. Where no norm with gamma and beta
    follows, channels go last.

    Attributes:
        delta: what a channel has to exceed.
        l1: weight of |gamma|.
        l2: weight of beta.

    Source: Shao et al., BWCP: Probabilistic Learning-to-Prune Channels for ConvNets via Batch Whitening, arXiv
    2105.06423; l1 and l2 are those for CIFAR-10. Not here: its batch whitening, which changes gamma and beta before P
    is computed, and masks that are sampled, since gates have to be the same in every pass. Own: the mean over several
    norms, and a budget instead of the threshold P > 1/2.

    Raises:
        GDPError: an option is out of range.
    """

    delta: float = 0.05
    l1: float = 4e-5
    l2: float = 8e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.l1 >= 0 and self.l2 >= 0):
            raise GDPError(f"Expected l1 and l2 of at least 0, but got {self.l1} and {self.l2}.")

    def penalty(self, state: MethodState, context: StepContext) -> Tensor | None:
        """Return `l1 sum |gamma| + l2 sum beta`, over the norms of channels that can be pruned."""
        terms = []
        for gamma, beta in _norms(context):
            each = self.l1 * gamma.parameter.float().abs() + self.l2 * beta.parameter.float()
            terms.append((each.flatten() * (gamma.channel < len(context.gate_param))).sum())
        return torch.stack(terms).sum() if terms else None

    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the mean of P over the norms of a channel, to be compared over all groups.

        Raises:
            GDPError: the network has no norms with gamma and beta.
        """
        norms = _norms(context)
        if not norms:
            raise no_norms("BWCP", "gamma and beta")
        sums = context.gate_param.new_zeros((2, len(context.gate_param) + 1))
        for gamma, beta in norms:
            found = self.probability(*(t.parameter.detach().flatten().float() for t in (gamma, beta)))
            sums.index_add_(1, gamma.channel, torch.stack([found, torch.ones_like(found)]))
        total, counts = sums[:, :-1]
        mean = torch.where(counts > 0, total / counts.clamp_min(1), 1.0)
        return globally(mean * context.is_there, context)

    def probability(self, gamma: Tensor, beta: Tensor) -> Tensor:
        """Return the probability that channels are above delta.

        Args:
            gamma: scales of norms, shape (channels,).
            beta: shifts of the same norms.
        """
        distance = (beta - self.delta) / (2**0.5 * gamma.abs().clamp_min(SMALLEST_GAMMA))
        return (1 + torch.erf(distance)) / 2


def _norms(context: StepContext) -> list[tuple[ChannelTensor, ChannelTensor]]:
    """Return the scale and the shift of every module that has both, of one shape.

    Args:
        context: where the run is.
    """
    shifts = {tensor.name.rpartition(".")[0]: tensor for tensor in context.tensors("shifts")}
    scales = [(tensor, tensor.name.rpartition(".")[0]) for tensor in context.tensors("scales")]
    pairs = [(scale, shifts[module]) for scale, module in scales if module in shifts]
    return [(scale, shift) for scale, shift in pairs if scale.parameter.shape == shift.parameter.shape]
