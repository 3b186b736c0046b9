"""The one exception that callers of gdp catch."""


class GDPError(ValueError):
    """Something gdp was asked for can't be done; the message says what was expected, what was found and the way out."""
