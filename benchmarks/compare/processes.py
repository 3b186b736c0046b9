"""Do tasks one by one, each in a process of its own: its memory is its own, and its death is nobody else's."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from gdp.utils import first_line

Task = TypeVar("Task")
Found = dict[str, Any]

FAILED = "failed"  # the key under which a task that failed says why


def each_alone(
    work: Callable[[Task], Found],
    tasks: Sequence[Task],
    workers: int,
    log: Path,
    show: Callable[[list[Task]], None] = lambda running: None,
    start: str = "spawn",
) -> Iterator[tuple[Task, Found]]:
    """Yield every task and what came of it, as they end; one that fails yields the reason under FAILED.

    Args:
        work: is called with a task in a process that is started for it.
        tasks: in the order in which they begin.
        workers: how many run at the same time.
        log: file that takes what the processes print, and the tracebacks of those that fail.
        show: is told which tasks are running whenever that changes.
        start: how processes begin: "spawn", with nothing of this one's memory, or "fork".
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    context: Any = get_context(start)
    waiting, running = list(reversed(tasks)), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                task = waiting.pop()
                here, there = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(work, task, there, log), daemon=True)
                process.start()
                there.close()  # so that the end of the process is the end of the pipe
                running[here] = task, process
            show([task for task, _ in running.values()])
            for pipe in wait(list(running)):
                task, process = running.pop(pipe)
                yield task, _received(pipe, process)
    finally:
        for _, process in running.values():
            process.terminate()


def _received(pipe: Any, process: Any) -> Found:
    """Return what a process has sent before its end, or how it ended."""
    try:
        found: Found = pipe.recv()
    except EOFError:
        found = {}
    process.join()
    pipe.close()
    return found or {FAILED: f"the process ended by itself, with exit code {process.exitcode}"}


def _child(work: Callable[[Task], Found], task: Task, pipe: Connection, log: Path) -> None:
    """Do a task, and send what came of it; end with the process that waits for it."""
    Thread(target=_end_with_parent, daemon=True).start()
    sys.stdout = sys.stderr = log.open("a", buffering=1)  # of Python, and of libraries
    for standard in (1, 2):
        os.dup2(sys.stdout.fileno(), standard)
    print(f"--- {task}")
    try:
        found = work(task)
    except Exception as error:
        traceback.print_exc()
        found = {FAILED: f"{type(error).__name__}: {first_line(error)}"}
    pipe.send(found)
    pipe.close()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
