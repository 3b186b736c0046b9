"""Find the user's own line that led to an error, and put an exception into one line."""

from __future__ import annotations

import os
import sysconfig
import traceback
from importlib.util import find_spec
from pathlib import Path

# all of gdp, not this folder alone: else the rest of gdp would pass for the user's code
GDP_FOLDER = Path(__file__).parents[1]
# what runs networks; packages that hold networks (timm, torchvision) are the user's, as their lines are of interest
RUNNERS = ["torch", "functorch", "fvcore", "numpy", "torchmetrics"]
RUNNERS += ["lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"]


def _folders_of(package: str) -> list[str]:
    """Return where a package is installed, without importing it; nothing if it is not.

    Args:
        package: name of a top-level package.
    """
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # something else goes by this name
        return []
    return [] if spec is None else [str(folder) for folder in spec.submodule_search_locations or ()]


LIBRARY_FOLDERS = tuple(
    f"{folder}{os.sep}" for folder in (str(GDP_FOLDER), *(found for name in RUNNERS for found in _folders_of(name)))
)
PYTHON_FOLDERS = tuple(f"{sysconfig.get_path(kind)}{os.sep}" for kind in ("stdlib", "platstdlib"))
PACKAGE_FOLDERS = ("site-packages", "dist-packages")  # which lie inside of Python's own


def first_line(error: BaseException) -> str:
    """Return what an exception says, in one line of at most 200 characters.

    Args:
        error: any exception; one without a text is shown as its class.
    """
    line = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    return line if len(line) <= 200 else line[:120] + " ... " + line[-75:]


def source_line(error: BaseException) -> str:
    """Return the innermost line of the user's own source that led to an error.

    Args:
        error: as it was caught; its causes are looked at, too.

    Returns:
        `file:line: code`; empty if no line of the user's is among the frames.
    """
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if is_user_file(frame.filename):
                return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
        seen = seen.__cause__ or seen.__context__
    return ""


def described(error: BaseException) -> str:
    """Return an exception in one line: its type, what it says, and the line of the user's source that led to it.

    Args:
        error: as it was caught.
    """
    line = source_line(error)
    return f"{type(error).__name__}: {first_line(error)}{f' at {line}' if line else ''}"


def is_user_file(filename: str) -> bool:
    """Return whether a source file belongs to neither Python, torch, Lightning nor gdp, nor to what these run with.

    Args:
        filename: absolute path, as a traceback has it.
    """
    if filename.startswith((*LIBRARY_FOLDERS, "<")):
        return False
    return is_installed(filename) or not filename.startswith(PYTHON_FOLDERS)


def is_installed(filename: str) -> bool:
    """Return whether a source file belongs to an installed package.

    Args:
        filename: absolute path.
    """
    return any(f"{os.sep}{name}{os.sep}" in filename for name in PACKAGE_FOLDERS)
