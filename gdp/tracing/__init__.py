"""From a network to its channel graph: torch.export, labels that run through the operators, grouping."""

from gdp.tracing.labels import Labels, Units, components
from gdp.tracing.trace import check_ignore, trace

__all__ = ["Labels", "Units", "check_ignore", "components", "trace"]
