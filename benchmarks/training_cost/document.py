"""Write docs/training_cost.md and its picture from saved runs."""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.common.figures import figure_at
from benchmarks.common.markdown import table
from benchmarks.training_cost.case import Case
from benchmarks.training_cost.run import Record
from benchmarks.training_cost.ways import WAYS

COLORS = dict(zip(WAYS, ("#555555", "#0072b2", "#009e73", "#d55e00"), strict=True))
STYLES = dict(zip(WAYS, ("-", "--", "-", "-."), strict=True))
HEADER = [
    "",
    "seconds",
    "of them tracing and cutting",
    "seconds against dense",
    "CPU time against dense",
    "training FLOPs",
    "peak memory",
    "in the last epoch",
    "FLOPs that remain",
    "test accuracy",
]

HEAD = """# What a training run costs

The same network trained in four ways, for the same number of epochs, on the same batches in the same order, from the
same initial weights:

- **dense**: as it is.
- **gdp, cut at the end**: gates close while it trains, channels are cut when training is over: `shrink="end"`.
- **gdp, cut every epoch**: channels whose gates have reached zero are cut when an epoch ends, and when
  the last ones close: `shrink="epoch"`.
- **Torch-Pruning**: half of the epochs dense, then pruned in small steps ({steps} would take everything) until its own
  count of multiply-adds is at the target (group magnitude, global ranking), then a new optimizer and the other half of
  the epochs to fine-tune; this is how its `reproduce/main.py` goes about it, without sparse learning. Its layers to
  ignore are the class scores and, in resnet20 and resnet56, all of the residual stream: after it prunes there, the
  padded shortcuts no longer fit.

The four train in one process and take turns: an epoch of each, then the next epoch of each, beginning with another one
every time, so that other load on the machine meets all alike. They are plain loops, the same one for all, with
`gdp.Pruner` where `GDPCallback` would call it. SGD with Nesterov momentum 0.9, weight decay 5e-4, one cycle of the
learning rate over the run; Torch-Pruning has one cycle before and one after. Images are decoded beforehand and are
cropped and flipped outside of what is timed.

- **seconds**: all training steps, and what the next column has; without validation.
- **tracing and cutting**: trace, dry run, cuts between epochs and their check (one within an epoch counts as a step);
  for Torch-Pruning its graph and its pruning steps.
- **CPU time**: of the process, which time taken by others does not enter; without meaning for a GPU.
- **training FLOPs**: 3 x the forward FLOPs (fvcore, multiply-adds) of the network as it was in each epoch, per image.
- **peak memory**: parameters, buffers and optimizer state, plus the most bytes of tensors alive on top of them in the
  last step of an epoch (CPU: allocations seen by `torch.profiler`; GPU: `torch.cuda.max_memory_allocated`); the largest
  of all epochs, then that of the last. The step under the profiler is not timed; the mean of the others stands for it.

Figures are means over the seeds; in brackets every seed, where there are several.

![Seconds per epoch](training_cost.svg)

CPU time (on a GPU: seconds) of the training steps in each epoch, without cutting; means over the seeds.
"""


def seconds(record: Record, clock: str) -> float:
    """Return the seconds of the whole run.

    Args:
        record: of one way.
        clock: "wall" or "cpu".
    """
    return cutting(record, clock) + sum(e["steps"][clock] for e in record["epochs"])


def cutting(record: Record, clock: str) -> float:
    """Return the seconds of tracing and cutting, of those of the whole run."""
    return record["setup"][clock] + sum(e["cut"][clock] for e in record["epochs"]) + record["finish"][clock]


def _flops(record: Record) -> float:
    return sum(e["flops"] for e in record["epochs"])


def _largest(record: Record) -> float:
    return max(e["memory"] for e in record["epochs"])


def _last(record: Record) -> float:
    return record["epochs"][-1]["memory"]


def _values(values: list[float], form: str) -> str:
    every = f" ({', '.join(format(v, form) for v in values)})" if len(values) > 1 else ""
    return format(mean(values), form) + every


def case_table(saved: dict[str, Any]) -> str:
    """Return one case as a table in Markdown.

    Args:
        saved: the case, the machine and the records of every seed.
    """
    rows = []
    for name in WAYS:
        runs = [(seed[name], seed["dense"]) for seed in saved["seeds"]]
        memory = [
            f"{mean(of(r) for r, _ in runs) / 2**20:.1f} MiB, {mean(of(r) / of(d) for r, d in runs):.2f}"
            for of in (_largest, _last)
        ]
        scores = [r["accuracy"] for r, _ in runs]
        rows.append(
            [
                name,
                f"{mean(seconds(r, 'wall') for r, _ in runs):.1f}",
                f"{mean(cutting(r, 'wall') for r, _ in runs):.1f}",
                _values([seconds(r, "wall") / seconds(d, "wall") for r, d in runs], ".2f"),
                _values([seconds(r, "cpu") / seconds(d, "cpu") for r, d in runs], ".2f"),
                f"{mean(_flops(r) / _flops(d) for r, d in runs):.1%}",
                *memory,
                _values([r["remaining"] for r, _ in runs], ".1%"),
                "" if None in scores else _values(scores, ".2f"),
            ]
        )
    return table(HEADER, rows)


def title(case: Case) -> str:
    """Return the case in a few words.

    >>> title(Case(size=64, amp=True))
    'resnet20, 64x64, batch 128, bfloat16'
    """
    extras = [", bfloat16"] * case.amp + [", channels last"] * case.channels_last
    return f"{case.model}, {case.size}x{case.size}, batch {case.batch}" + "".join(extras)


def command(case: Case, seeds: int, test_images: int) -> str:
    """Return what was typed, but for where the data lies; options that were left alone are left out.

    Args:
        case: what was trained.
        seeds: how many.
        test_images: how many; 0 if images were noise.
    """
    default, parts = Case(), ["python -m benchmarks.training_cost"]
    for name, value in vars(case).items():
        if value != getattr(default, name):
            parts.append(f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}"))
    parts.append(f"--seeds {seeds}")
    if test_images:
        parts.append("--data DATA" if test_images == 10_000 else f"--data DATA --test-images {test_images}")
    return " ".join(parts)


def _section(saved: dict[str, Any]) -> str:
    case, on = Case(**saved["case"]), saved["machine"]
    where = on["gpu"] or f"{on['cpu']}, {on['cores']} cores shared with other work, threads: {on['threads']}"
    versions = ", ".join(f"{name} {number}" for name, number in on["versions"].items())
    images = f"CIFAR-10 images, {saved['test_images']:,} to test" if saved["test_images"] else "images of noise"
    return f"""## {title(case)}

    {command(case, len(saved["seeds"]), saved["test_images"])}

{case.epochs} epochs on {case.images:,} {images}, target {case.target}, peak learning rate {case.lr} ({case.tune_lr} to
fine-tune), seeds: {len(saved["seeds"])}. {where}; {versions}.

{case_table(saved)}"""


def write(path: Path, runs: list[dict[str, Any]]) -> None:
    """Write the document, and the picture beside it.

    Args:
        path: of the document.
        runs: as they were saved.
    """
    steps = "/".join(sorted({str(saved["case"]["tp_steps"]) for saved in runs}))
    path.write_text("\n".join([HEAD.format(steps=steps), *map(_section, runs)]))
    picture(path.with_suffix(".svg"), runs)


def picture(path: Path, runs: list[dict[str, Any]]) -> None:
    """Draw seconds per epoch, one panel per case.

    Args:
        path: of the SVG file.
        runs: as they were saved.
    """
    with figure_at(path, len(runs), min(2, len(runs)), (5.5, 3.6)) as (_, panels):
        for panel, saved in zip(panels, runs, strict=True):
            clock = "wall" if saved["case"]["device"] == "cuda" else "cpu"  # CPU time: other load does not enter
            for name in WAYS:
                by_seed = [[e["steps"][clock] for e in seed[name]["epochs"]] for seed in saved["seeds"]]
                means = [mean(epoch) for epoch in zip(*by_seed, strict=True)]
                panel.plot(range(1, len(means) + 1), means, STYLES[name], color=COLORS[name], label=name, linewidth=1.8)
            panel.set_title(title(Case(**saved["case"])), fontsize=11)
            panel.set_xlabel("epoch")
            panel.set_ylabel("CPU seconds per epoch" if clock == "cpu" else "seconds per epoch")
            panel.set_ylim(bottom=0)
            panel.xaxis.get_major_locator().set_params(integer=True)
            panel.grid(alpha=0.3)
            panel.legend(fontsize=9, loc="lower left")
