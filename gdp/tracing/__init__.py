"""Find the channel graph of a network: export it, run its operators on channel ids, and group the ids."""

from gdp.tracing.labels import ChannelIds, Labels, connected_components
from gdp.tracing.trace import check_ignore, trace_channels

__all__ = ["ChannelIds", "Labels", "check_ignore", "connected_components", "trace_channels"]
