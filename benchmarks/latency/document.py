"""docs/latency.md and its pictures from the records of latency runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.coverage_document import table
from benchmarks.latency_networks import BATCH, CLASSES

Record = dict[str, Any]

RUNTIMES = {"eager": "eager", "channels_last": "eager, channels last"}
RUNTIMES |= {"compile": "torch.compile", "onnxruntime": "onnxruntime"}
COLORS = ("#9ecae1", "#4292c6", "#08519c", "#fd8d3c", "#a63603", "#74c476")
MARKERS = "osv^DP"
NEAR = 0.25  # a layer's milliseconds per GFLOP count as those of the whole within this share
WIDTHS = ["1/4", "1/2", "1/2 and one more", "3/4", "all"]


class Timing:
    """What a network's times say, beside those of the dense network in the same turns."""

    def __init__(self, dense: Record, network: Record) -> None:
        self.name, self.target = network["name"], network["target"]
        self.remaining = network["flops"] / dense["flops"]
        self.removed = 1 - self.remaining
        self.parameters_removed = 1 - network["parameters"] / dense["parameters"]
        ratios = [d / n for d, n in zip(dense["seconds"], network["seconds"], strict=True)]
        self.speed_up = statistics.median(ratios)
        self.quartiles = statistics.quantiles(ratios, n=4)[::2] if len(ratios) > 1 else [self.speed_up] * 2
        self.saved = 1 - 1 / self.speed_up
        self.share = self.saved / self.removed
        self.ms = [1e3 * statistics.median(n["seconds"]) for n in (dense, network)]


def timings(record: Record) -> list[Timing]:
    """One for every network that was cut; none where the runtime failed."""
    return [Timing(record["networks"][0], network) for network in record["networks"][1:]]


def line(record: Record) -> str:
    """A record in a few words."""
    head = f"{record['model']} {record['size']}, {RUNTIMES[record['runtime']]}, batch {record['batch']}: "
    if record["kind"] == "layers":
        return head + _spread(record)
    if "failed" in record:
        return head + record["failed"]
    times = (f"{t.name} at {t.remaining:.3f} {t.speed_up:.2f}x ({t.share:.0%} of FLOPs)" for t in timings(record))
    return head + ", ".join(times)


def write(run: dict[str, list[Any]], path: Path) -> None:
    """Write the document, and its pictures beside it."""
    ran = [r for r in run["records"] if "failed" not in r]
    compared, swept, layers = ([r for r in ran if r["kind"] == kind] for kind in ("compare", "sweep", "layers"))
    parts = [_head(run)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context({"svg.hashsalt": "gdp", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        if compared:
            _bars(compared, path.with_suffix(".svg"))
            parts += [f"## Networks\n\n![speed-up of every network]({path.stem}.svg)\n", _summary(compared)]
        parts += _of_models([r for r in run["records"] if r["kind"] == "compare"])
        if swept:
            picture = path.with_name(f"{path.stem}_sweep.svg")
            _curves(swept, picture)
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

- **gdp-N** is what `gdp.remove` left, widths being multiples of N (`round_to=N`). What channels are worth comes from
  gradients on batches of {BATCH} synthetic images of half the size, {CLASSES} blurred random patterns in noise
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


def _title(record: Record) -> str:
    return "{model}, {size}x{size}, {way}, batch {batch}".format(way=RUNTIMES[record["runtime"]], **record)


def _ways(records: list[Record]) -> list[tuple[str, int]]:
    """Runtimes and batch sizes."""
    found = {(r["runtime"], r["batch"]) for r in records}
    return sorted(found, key=lambda way: (list(RUNTIMES).index(way[0]), way[1]))


def _names(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(n["name"] for r in records for n in r["networks"][1:]))


def _summary(records: list[Record]) -> str:
    names = _names(records)
    rows = []
    for runtime, batch in _ways(records):
        found = [t for r in records if (r["runtime"], r["batch"]) == (runtime, batch) for t in timings(r)]
        cells = []
        for name in names:
            shares = [t.share for t in found if t.name == name]
            cells.append(f"{statistics.median(shares):.0%} ({min(shares):.0%} to {max(shares):.0%})" if shares else "")
        rows.append([RUNTIMES[runtime], str(batch), *cells])
    return "Share of the FLOPs removed that became time; median over networks, lowest to highest:\n\n" + table(
        ["runtime", "batch", *names], rows
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
    names = _names([record])
    rows = []
    for target in sorted({t.target for t in found}, reverse=True):
        cells = {t.name: f"{t.remaining:.1%}: {1 / t.speed_up:.1%}" for t in found if t.target == target}
        rows.append([f"{target:g}", *(cells.get(name, "out of reach") for name in names)])
    return f"{_title(record)}; FLOPs that remain: time that remains.\n\n" + table(["target", *names], rows)


def _rates(conv: Record) -> list[float]:
    """Milliseconds per GFLOP at every width; the last is the dense one."""
    return [ms / (flops / 1e9) for ms, flops in zip(conv["ms"], conv["flops"], strict=True)]


def _spread(record: Record) -> str:
    rates = [_rates(c)[-1] for c in record["convs"]]
    ms, flops = ([len(c["layers"]) * c[key][-1] for c in record["convs"]] for key in ("ms", "flops"))
    overall = sum(ms) / (sum(flops) / 1e9)
    near = sum(n for rate, n in zip(rates, flops, strict=True) if abs(rate / overall - 1) <= NEAR) / sum(flops)
    more = [c["ms"][2] / c["ms"][1] - 1 for c in record["convs"]]
    return (
        f"{min(rates):.1f} / {statistics.median(rates):.1f} / {max(rates):.1f} ms per GFLOP (lowest, median, highest "
        f"of {len(rates)} shapes of conv), {overall:.1f} overall; {near:.0%} of the convs' FLOPs are in layers within "
        f"{NEAR:.0%} of that. Convs alone take {sum(ms):.0f} ms together, the whole network {record['ms']:.0f} ms. "
        f"One output more than a half costs {statistics.median(more):.0%} more time (median; {max(more):.0%} at most)."
    )


def _layers(record: Record) -> str:
    rows = []
    for conv in record["convs"]:
        count = f" and {len(conv['layers']) - 1} more" if len(conv["layers"]) > 1 else ""
        numbers = [conv["flops"][-1] / 1e9, conv["ms"][-1], *_rates(conv)]
        rows.append([conv["layers"][0] + count, conv["shape"], *(f"{number:.2f}" for number in numbers)])
    return f"""## Layers: {_title(record)}

{_spread(record)}

Milliseconds per GFLOP with fewer outputs (multiples of 8 but for "one more"; all inputs stay, except in grouped convs):

{table(["layer", "shape", "GFLOP", "ms", *WIDTHS], rows)}"""


def _bars(records: list[Record], path: Path) -> None:
    """Speed-up of every network; a panel for every runtime and batch size, a bar for every way to cut."""
    ways, names = _ways(records), _names(records)
    models = list(dict.fromkeys(r["model"] for r in records))
    labels = ["\n".join(model.rsplit("_", 1)) for model in models]
    columns = len({batch for _, batch in ways})
    lines = -(-len(ways) // columns)
    figure, panels = plt.subplots(lines, columns, figsize=(5.5 * columns, 2.6 * lines), squeeze=False, sharey=True)
    wide = 0.8 / len(names)
    for panel, (runtime, batch) in zip(panels.flat, ways, strict=False):
        for record in (r for r in records if (r["runtime"], r["batch"]) == (runtime, batch)):
            for t in timings(record):
                i = names.index(t.name)
                left = models.index(record["model"]) - 0.4 + wide * i
                panel.bar(left, t.speed_up, wide * 0.94, align="edge", color=COLORS[i % len(COLORS)])
                panel.hlines(1 / t.remaining, left, left + wide * 0.94, colors="black", linewidth=1.5)
        panel.axhline(1, color="gray", linewidth=0.8, linestyle=":")
        panel.set_title(f"{RUNTIMES[runtime]}, batch {batch}", fontsize=10)
        panel.set(xticks=range(len(models)), xticklabels=labels, xlim=(-0.6, len(models) - 0.4), ylabel="speed-up")
    for panel in list(panels.flat)[len(ways) :]:
        panel.set_axis_off()
    marks: list[Any] = [plt.Rectangle((0, 0), 1, 1, color=COLORS[i % len(COLORS)]) for i in range(len(names))]
    marks.append(plt.Line2D([], [], color="black"))
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.32 / (2.6 * lines)))
    legend = [*names, "ideal: dense FLOPs / FLOPs"]
    figure.legend(marks, legend, loc="upper center", ncols=len(legend), frameon=False)
    _save(figure, path)


def _curves(records: list[Record], path: Path) -> None:
    """Time against FLOPs, both relative to the dense network; a panel for every record."""
    figure, panels = plt.subplots(1, len(records), figsize=(5.5 * len(records), 4.5), squeeze=False)
    for panel, record in zip(panels.flat, records, strict=True):
        for i, name in enumerate(_names([record])):
            points = sorted([(t.remaining, 1 / t.speed_up) for t in timings(record) if t.name == name] + [(1.0, 1.0)])
            look = {"marker": MARKERS[i % len(MARKERS)], "markersize": 5, "color": COLORS[i % len(COLORS)]}
            panel.plot(*zip(*points, strict=True), label=name, **look)
        panel.plot([0, 1], [0, 1], color="gray", linewidth=0.8, linestyle=":", label="time = FLOPs")
        panel.set(xlabel="FLOPs that remain", ylabel="time that remains", xlim=(0, 1.02), ylim=(0, None))
        panel.set_title(_title(record), fontsize=10)
        panel.legend(frameon=False)
    figure.tight_layout()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
