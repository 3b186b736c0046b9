"""Write files whole or not at all, and read them only if every byte is what was written."""

from __future__ import annotations

import os
import pickle
import re
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from gdp.errors import GDPError

AnyPath = str | os.PathLike[str]

FOLDER_FLAG = 0x10  # among the external attributes of a zip record


def _left_out(*_: Any) -> None:
    """Stand for a method that a file holds: nothing of it is looked up, and nothing runs."""


# the schedule of Lightning's StochasticWeightAveraging saves one of its own methods under torch 2.9 and older
LEFT_OUT: list[Any] = [(_left_out, "builtins.getattr"), (_left_out, "torch.optim.swa_utils.SWALR")]


def write_atomically(content: Any, path: AnyPath) -> None:
    """Save with torch.save; the file appears under its name only when it is complete.

    Args:
        content: whatever torch.save takes.
        path: of the file; a file that is there already is replaced.

    Raises:
        GDPError: it can't be written (a full disk, a read-only folder); a file that was there before is as it was.
    """
    path = Path(path)
    # the temporary file lies in the same folder, so that renaming it is one atomic operation of the file system
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save(content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's zip writer raises RuntimeError once a write has failed
        cause = _os_error_behind(error)
        raise GDPError(
            f"{os.fspath(path)!r} could not be written ({type(cause).__name__}: {str(cause).splitlines()[0]}). What "
            "was there before is untouched; make room or choose another folder, and save again."
        ) from error
    finally:
        with suppress(OSError):  # in a read-only folder there is nothing
            temporary.unlink(missing_ok=True)


def _os_error_behind(error: BaseException) -> BaseException:
    """Return the OSError that led to an error, or the error itself if none did.

    Args:
        error: as it was caught; its causes and contexts are looked at.
    """
    context = error
    while not isinstance(context, OSError) and (context.__cause__ or context.__context__):
        context = context.__cause__ or context.__context__  # type: ignore[assignment]
    return context if isinstance(context, OSError) else error


def read_checked(path: AnyPath, what: str) -> Any:
    """Load a file of torch.save that holds tensors and plain containers; no code of the file ever runs.

    Args:
        path: of the file.
        what: words for what it should be, for the message: "a checkpoint".

    Returns:
        What was saved, with all tensors on the CPU.

    Raises:
        GDPError: it is missing, truncated, damaged, or holds objects of other classes.
    """
    name = os.fspath(path)
    if not Path(path).is_file():
        raise GDPError(f"There is no file {name!r}.")
    check_intact(path, what)
    try:
        with torch.serialization.safe_globals(LEFT_OUT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        unknown = re.search(r"GLOBAL (\S+)", str(error))
        raise GDPError(
            f"{name!r} can't be read as {what}; it is truncated, damaged, or holds other objects "
            f"({unknown.group(1) if unknown else 'which are not named'}). If you trust it, allow their classes: "
            "torch.serialization.add_safe_globals([...])."
        ) from error
    except Exception as error:  # whatever a damaged pickle makes of its reader
        raise _unreadable(path, what, error) from error


def check_intact(path: AnyPath, what: str = "a checkpoint") -> None:
    """Check every byte of a local zip file, as torch.save writes it, against its checksums.

    Args:
        path: of the file; what is no zip file, or no local file, passes.
        what: words for what it should be, for the message.

    Raises:
        GDPError: the file is damaged.
    """
    try:  # an old format has no checksums; what is no local file is not looked at
        damage = _damage(path) if zipfile.is_zipfile(path) else None
    except Exception as error:  # whatever a damaged zip file makes of its reader
        raise _unreadable(path, what, error) from error
    if damage is not None:
        raise _unreadable(path, what, damage)


def _unreadable(path: AnyPath, what: str, reason: str | Exception) -> GDPError:
    """Return the error that a file can't be read.

    Args:
        path: of the file.
        what: words for what it should be.
        reason: in words, or the exception that reading it raised.
    """
    if isinstance(reason, Exception):
        lines = str(reason).strip().splitlines()
        reason = f"{type(reason).__name__}: {lines[0] if lines else 'end of file'}"
    return GDPError(
        f"{os.fspath(path)!r} can't be read as {what}; it is truncated, damaged or no such file ({reason})."
    )


def _damage(path: AnyPath) -> str | None:
    """Return what is wrong with the first damaged record of a zip file, or None.

    Args:
        path: of the zip file; the contents of one without checksums count as intact.
    """
    with zipfile.ZipFile(path) as archive:
        records = archive.infolist()
        for record in records:  # of a folder, which torch.save never writes, torch reads nothing and says nothing
            if record.external_attr & FOLDER_FLAG or record.is_dir():
                return f"{record.filename!r} is marked as a folder"
        if not any(record.CRC for record in records):  # written without, torch.serialization.set_crc32_options(False)
            return None
        for record in records:
            with archive.open(record) as stream:
                try:
                    while stream.read(1 << 24):
                        pass
                except (zipfile.BadZipFile, zlib.error, EOFError):
                    return f"the checksum of {record.filename!r} is wrong"
    return None
