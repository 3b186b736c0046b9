"""PruningMethod: what a method says of channels and gates. A new one is one subclass."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, NamedTuple

from torch import Tensor

from gdp.gates import Role, Seen
from gdp.graph import ChannelGraph
from gdp.methods.context import StepContext
from gdp.methods.schedule import Schedule

MethodState = dict[str, Tensor]  # what a method remembers between steps; it is part of checkpoints

CLOSED_BELOW = 0.01  # a gate with a value below this is as good as closed


class LearningBatches(NamedTuple):
    """Batches whose gradients move gates.

    Attributes:
        source: "train", the batches that the weights are trained on, without a further pass; the fraction of the
            training data that is taken out for the gates, in (0, 1); or "val", the validation data.
        every: gates learn from one at every so many optimizer steps.
    """

    source: float | Literal["train", "val"]
    every: int


@dataclass(frozen=True)
class PruningMethod(Schedule, ABC):
    """Say which channels matter, what a gate's value is, and how gates move: `GDPCallback(0.4, method=MyMethod())`.

    All methods of this class are pure: they change nothing in place, and what they return depends on their arguments
    alone, so that a resumed run and all processes of a run come to the same. They need not look out for gradients that
    are not finite: what `update` and `learn` make of one is forgotten. Vectors have the shape (channels of all
    groups,); `x` is the parameter of a gate, in [0, 1], exactly 0.0 if it is closed. What a method leaves as it is here
    costs nothing. The options of `Schedule` say when and how fast gates close.

    `gdp.Pruner` checks the contract of every method before training (`check_method`).
    """

    # what every method says

    @property
    @abstractmethod
    def temperatures(self) -> tuple[float, float]:
        """The first and the last temperature of the gate function; `temperature` gives those in between."""

    @abstractmethod
    def value(self, gate_param: Tensor, temperature: float) -> Tensor:
        """Return what channels are multiplied with: exactly 0 for x = 0, exactly 1 for x = 1, rising in between.

        Args:
            gate_param: x of every gate.
            temperature: of the gate function.
        """

    @abstractmethod
    def importance(self, state: MethodState, context: StepContext) -> Tensor:
        """Return what the loss would suffer without each channel; channels are kept by importance per FLOP.

        Args:
            state: what is remembered.
            context: where the run is.

        Returns:
            Importance, finite and not negative, in any unit.
        """

    @abstractmethod
    def step(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the x of every gate after one more step inside the window.

        Args:
            state: what is remembered.
            context: where the run is. Channels in its `keep_mask` fit into what is allowed; x of the others may become
                0, and stays 0 then unless the method `regrows`.
        """

    @abstractmethod
    def finalize(self, state: MethodState, context: StepContext) -> Tensor:
        """Return the x of every gate at the end of the window: 0, or one with a value above 1/2.

        Args:
            state: what is remembered.
            context: where the run is; its `keep_mask` holds the channels that fit into the target.
        """

    def init_state(self, channels: int) -> MethodState:
        """Return what is remembered before the first step: tensors by name, nothing if the method needs no memory.

        Args:
            channels: of all groups.
        """
        return {}

    def update(self, state: MethodState, gradient: Tensor, context: StepContext) -> MethodState:
        """Return what is remembered after a training batch; weights have their gradients, and were not stepped yet.

        Args:
            state: what was remembered before.
            gradient: `g_c * dL/dg_c` of every channel; of a closed one `dL/dg_c` if the method `regrows`, else 0.
            context: where the run is.
        """
        return state

    def temperature(self, progress: float) -> float:
        """Return the temperature at a moment of the window: geometric from first to last.

        Args:
            progress: fraction of the window that is over, in [0, 1].
        """
        return anneal(*self.temperatures, progress)

    def check_graph(self, graph: ChannelGraph) -> None:
        """Check before anything is changed that the method can say something of a network.

        Args:
            graph: what `gdp.trace` found in it.

        Raises:
            GDPError: the network has not what the method needs.
        """

    # gates that learn from gradients

    @property
    def learns_from(self) -> LearningBatches | None:
        """The batches that `learn` is told of inside the window, if any."""
        return None

    def learn(self, state: MethodState, gradient: Tensor, context: StepContext) -> tuple[MethodState, Tensor]:
        """Return what is remembered after a batch that gates learn from, and the x of every gate.

        Args:
            state: what was remembered before.
            gradient: `g_c * dL/dg_c` of every channel.
            context: where the run is.
        """
        return state, context.gate_param

    # what happens to weights

    def penalty(self, state: MethodState, context: StepContext) -> Tensor | None:
        """Return a penalty on the network's parameters, which is trained along until the window ends.

        Its gradient is added to that of the loss once per optimizer step: after gradients are accumulated and reduced
        over processes, before they are clipped.

        Args:
            state: what is remembered.
            context: where the run is; `context.tensors` gives the parameters.

        Returns:
            A scalar with its graph; None at steps without a penalty.
        """
        return None

    def factors(self, state: MethodState, context: StepContext) -> dict[Role, Tensor] | None:
        """Return what the parameters of channels are multiplied with after an optimizer step, until the window ends.

        Args:
            state: what is remembered.
            context: where the run is.

        Returns:
            For parameters of some roles one factor per channel, 1 to leave it alone; None at steps without any.
            Parameters that are frozen are not multiplied.
        """
        return None

    # what the network computes

    @property
    def observed_batches(self) -> int:
        """How many training batches `observe` is shown before every choice of channels."""
        return 0

    @property
    def needs_labels(self) -> bool:
        """Whether a batch has to be a pair of inputs and classes."""
        return False

    def observe(self, state: MethodState, seen: Seen, context: StepContext) -> MethodState:
        """Return what is remembered after a pass that is made beside training, without gradients.

        It is the first one that `training_step` makes of the network on a batch, in training mode. What is remembered
        is averaged over all processes, each of which sees its own batch: remember sums and means.

        Args:
            state: what was remembered before.
            seen: activations, output and labels.
            context: where the run is.
        """
        return state

    @property
    def adds_loss(self) -> bool:
        """Whether `forward_loss` adds something to the loss."""
        return False

    def forward_loss(self, state: MethodState, seen: Seen, context: StepContext) -> Tensor | None:
        """Return what is added to the loss in every forward pass in training, until the window ends.

        Args:
            state: what is remembered.
            seen: activations and output with their graphs; labels are not known here.
            context: where the run is.

        Returns:
            A scalar with its graph; None for passes that nothing is added to.
        """
        return None

    # coming back

    @property
    def regrows(self) -> bool:
        """Whether a closed channel may be chosen again until the window ends.

        Closed gates let gradients through to the weights that read them then, and nothing is cut before it ends.
        """
        return False


def anneal(first: float, last: float, progress: float) -> float:
    """Return a value between two, geometrically.

    Args:
        first: value at progress 0, above 0.
        last: value at progress 1, above 0.
        progress: in [0, 1]; what lies outside counts as the nearer end.

    >>> round(anneal(0.1, 1e-4, 2 / 3), 6)
    0.001
    """
    return float(first * (last / first) ** min(max(progress, 0.0), 1.0))
