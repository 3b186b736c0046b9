"""Find the user's own line that led to an error, and put an exception into one line."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import fvcore
import torch

# all of gdp, not this folder alone: else the rest of gdp would pass for the user's code
GDP_FOLDER = Path(__file__).parents[1]
LIBRARY_FOLDERS = tuple(
    f"{folder}{os.sep}" for folder in (Path(torch.__file__).parent, Path(fvcore.__file__).parent, GDP_FOLDER)
)


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


def is_user_file(filename: str) -> bool:
    """Return whether a source file belongs to neither torch, fvcore nor gdp.

    Args:
        filename: absolute path, as a traceback has it.
    """
    return not filename.startswith((*LIBRARY_FOLDERS, "<"))
