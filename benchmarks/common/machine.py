"""The machine and the versions that a figure was measured with."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")


def cpu_model() -> str:
    """Return the name of the processor, or its architecture where Linux does not tell."""
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def load() -> str:
    """Return how many processes want to run, mean over the last minute."""
    return f"load {os.getloadavg()[0]:.1f}"


def version_of(package: str) -> str:
    """Return the version of an installed package, without what says how it was built ("+cpu").

    Args:
        package: its name in the package index.
    """
    return version(package).partition("+")[0]


def versions(*packages: str) -> str:
    """Return packages and their versions as a list in words.

    Args:
        packages: names in the package index.
    """
    return ", ".join(f"{package} {version_of(package)}" for package in packages)
