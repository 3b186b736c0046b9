"""TODO."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import fvcore
import torch


def first_line(error: BaseException) -> str:
    """What an exception says, in one line of at most 200 characters."""
    line = (str(error).strip() or repr(error)).splitlines()[0].rstrip(".")
    return line if len(line) <= 200 else line[:120] + " ... " + line[-75:]


_LIBRARY_FOLDERS = tuple(
    f"{Path(module).parent}{os.sep}" for module in (torch.__file__, fvcore.__file__, str(Path(__file__).parent))
)


def source_line(error: BaseException) -> str:
    """The innermost line of the user's own source that led to an error: `file:line: code`; empty if there is none."""
    seen: BaseException | None = error
    while seen is not None:
        for frame in reversed(traceback.extract_tb(seen.__traceback__)):
            if is_user_file(frame.filename):
                return f"{Path(frame.filename).name}:{frame.lineno}: {frame.line}"
        seen = seen.__cause__ or seen.__context__
    return ""


def is_user_file(filename: str) -> bool:
    """Whether a source file belongs to neither torch, fvcore nor gdp."""
    return not filename.startswith((*_LIBRARY_FOLDERS, "<"))
