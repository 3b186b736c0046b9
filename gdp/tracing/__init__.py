"""From a network to its channel graph: torch.export, labels that run through the operators, grouping."""

from gdp.tracing.labels import ChannelIds, Labels, connected_components
from gdp.tracing.trace import check_ignore, trace

__all__ = ["ChannelIds", "Labels", "check_ignore", "connected_components", "trace"]
