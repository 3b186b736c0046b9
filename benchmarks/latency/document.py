"""Write docs/latency.md and its pictures from the records of latency runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.common.markdown import table
from benchmarks.latency.networks import BATCH, CLASSES
from benchmarks.latency.pictures import bars, curves
from benchmarks.latency.records import RUNTIMES, Record, names, rates, spread, timings, title, ways

WIDTHS = ["1/4", "1/2", "1/2 and one more", "3/4", "all"]


def write(run: dict[str, list[Any]], path: Path) -> None:
    """Write the document, and its pictures beside it.

    Args:
        run: machines, commands and records.
        path: of the document.
    """
    ran = [r for r in run["records"] if "failed" not in r]
    compared, swept, layers = ([r for r in ran if r["kind"] == kind] for kind in ("compare", "sweep", "layers"))
    parts = [_head(run)]
    path.parent.mkdir(parents=True, exist_ok=True)
    if compared:
        bars(compared, path.with_suffix(".svg"))
        parts += [f"## Networks\n\n![speed-up of every network]({path.stem}.svg)\n", _summary(compared)]
    parts += _of_models([r for r in run["records"] if r["kind"] == "compare"])
    if swept:
        picture = path.with_name(f"{path.stem}_sweep.svg")
        curves(swept, picture)
        parts += [f"## Targets\n\n![time against FLOPs]({picture.name})\n", *map(_targets, swept)]
    parts += [_layers(record) for record in layers]
    path.write_text("\n".join(parts).rstrip() + "\n")


def _head(run: dict[str, list[Any]]) -> str:
    machines = "\n".join(dict.fromkeys(run["machines"]))
    commands = "\n".join(f"    {typed}" for typed in dict.fromkeys(run["commands"]))
    learned = "; ".join(sorted({_learned(r) for r in run["records"] if r["kind"] != "layers"}))
    return f"""# Latency

Of the FLOPs removed, how much inference time is saved?

{commands}

{machines}

- **gdp-N** is what `gdp.remove` left, widths being multiples of N (`round_to=N`). The importance of channels comes
  from gradients on batches of {BATCH} synthetic images of half the size, {CLASSES} blurred random patterns in noise
  ({learned}). Then all channels that the target asks for were closed at once. So the widths are those that gdp chooses
  for such gradients, not those of a network trained on a task, and no accuracy belongs to them.
- **uniform-N** keeps the same fraction of every channel group, the largest that stays within the target.
- FLOPs are multiply-adds as fvcore counts them, and equal gdp's report; all runtimes' outputs agree within 1e-3.
- Networks take turns, back and forth, after a warm-up; short runs are timed several at a time. Milliseconds are
  medians; speed-up is the median of dense / cut in the same turn, with quartiles in brackets.
- Time saved is 1 - 1 / speed-up. **Share** is time saved / FLOPs removed: 100 % if time were proportional to FLOPs.
- torch.compile is inductor in its default mode, onnxruntime the CPU provider with one thread.
"""


def _learned(record: Record) -> str:
    weights = f"at the weights of {record['weights']}" if record["weights"] else "of SGD from random weights"
    return f"{record['steps']} steps {weights}"


def _summary(records: list[Record]) -> str:
    cuts = names(records)
    rows = []
    for runtime, batch in ways(records):
        found = [t for r in records if (r["runtime"], r["batch"]) == (runtime, batch) for t in timings(r)]
        cells = []
        for name in cuts:
            shares = [t.share for t in found if t.name == name]
            cells.append(f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})" if shares else "")
        rows.append([RUNTIMES[runtime], str(batch), *cells])
    return "Share of the FLOPs removed that became time; median over networks, lowest to highest:\n\n" + table(
        ["runtime", "batch", *cuts], rows
    )


def _of_models(records: list[Record]) -> Iterator[str]:
    header = ["runtime", "batch", "network", "parameters removed", "FLOPs removed", "ms", "time saved", "speed-up"]
    for model, size in dict.fromkeys((r["model"], r["size"]) for r in records):
        own, rows = [r for r in records if (r["model"], r["size"]) == (model, size)], []
        for record in own:
            way = [RUNTIMES[record["runtime"]], str(record["batch"])]
            if "failed" in record:
                rows.append([*way, "", "", "", "", "", f"failed: {record['failed']}", ""])
            for t in timings(record) if record["networks"] else []:
                speed_up = f"{t.speed_up:.2f} ({t.quartiles[0]:.2f} to {t.quartiles[1]:.2f})"
                ms = f"{t.ms[0]:.1f} to {t.ms[1]:.1f}"
                less = [f"{t.parameters_removed:.1%}", f"{t.removed:.1%}", ms, f"{t.saved:.1%}"]
                rows.append([*way, t.name, *less, speed_up, f"{t.share:.0%}"])
        refused = {f"{name}: {reason}" for record in own for name, reason in record["refused"].items()}
        yield (
            f"### {model}, {size}x{size}\n\n"
            + table([*header, "share"], rows)
            + "".join(f"\n{r}\n" for r in sorted(refused))
        )


def _targets(record: Record) -> str:
    found = timings(record)
    cuts = names([record])
    rows = []
    for target in sorted({t.target for t in found}, reverse=True):
        cells = {t.name: f"{t.remaining:.1%}: {1 / t.speed_up:.1%}" for t in found if t.target == target}
        rows.append([f"{target:g}", *(cells.get(name, "out of reach") for name in cuts)])
    return f"{title(record)}; FLOPs that remain: time that remains.\n\n" + table(["target", *cuts], rows)


def _layers(record: Record) -> str:
    rows = []
    for conv in record["convs"]:
        count = f" and {len(conv['layers']) - 1} more" if len(conv["layers"]) > 1 else ""
        numbers = [conv["flops"][-1] / 1e9, conv["ms"][-1], *rates(conv)]
        rows.append([conv["layers"][0] + count, conv["shape"], *(f"{number:.2f}" for number in numbers)])
    return f"""## Layers: {title(record)}

{spread(record)}

Milliseconds per GFLOP with fewer outputs (multiples of 8 but for "one more"; all inputs stay, except in grouped convs):

{table(["layer", "shape", "GFLOP", "ms", *WIDTHS], rows)}"""
