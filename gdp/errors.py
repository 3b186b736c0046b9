"""Define the one exception that gdp raises for its callers."""


class GDPError(ValueError):
    """Report that gdp can't do what it was asked for.

    The message says what was expected, what was found, and what the user can do instead.
    """
