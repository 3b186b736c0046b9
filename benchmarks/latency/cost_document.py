"""The text of docs/latency_budget.md."""

from __future__ import annotations

from statistics import fmean, median

from benchmarks.common.markdown import table
from benchmarks.latency.networks import BATCH, CLASSES
from benchmarks.latency.records import Record

MORE = 0.005  # share of the importance that milliseconds must keep on top of what FLOPs keep
KEYS = ["predicted", "FLOPs", "importance kept"]


def section(record: Record) -> str:
    """Return what layers' times add up to, how far predictions were from measured times, and a table of all networks.

    Args:
        record: of one dense network and all that were made from it.
    """
    networks, total = record["networks"], sum(record["spent"].values())
    shares = ", ".join(f"{name} {seconds / total:.0%}" for name, seconds in record["spent"].items())
    off = {key: fmean(abs(n[key] - median(n["time"])) for n in networks) for key in KEYS[:2]}
    rows = []
    for i, n in enumerate(networks):
        measured = f"{median(n['time']):.3f} ({min(n['time']):.3f} to {max(n['time']):.3f})"
        budget = n["budget"] + ": the same network" * (i % 2 and n["open_counts"] == networks[i - 1]["open_counts"])
        rows.append([str(n["round_to"]), f"{n['target']:g}", budget, measured, *(f"{n[key]:.3f}" for key in KEYS)])
    return f"""The dense network takes {1e3 * total:.1f} ms: {shares}.
Mean absolute error of predicted latency: {off["predicted"]:.3f} of that; of FLOPs, read as time: {off["FLOPs"]:.3f}.

{table(["round_to", "target", "budget", "time (lowest to highest)", *KEYS], rows)}"""


def verdict(record: Record) -> str:
    """Say whether milliseconds win: if they are no slower and keep more importance in every setting.

    Args:
        record: of one dense network and all that were made from it.
    """
    pairs = list(zip(record["networks"][::2], record["networks"][1::2], strict=True))
    longer = [median(ms["time"]) - median(flops["time"]) for flops, ms in pairs]
    more = [ms["importance kept"] - flops["importance kept"] for flops, ms in pairs]
    won = [median(ms["time"]) <= max(flops["time"]) and m > MORE for (flops, ms), m in zip(pairs, more, strict=True)]
    words = "milliseconds win" if all(won) else "no clear win"
    change = f"time {min(longer):+.3f} to {max(longer):+.3f}, importance kept {min(more):+.3f} to {max(more):+.3f}"
    return f"{record['title']}: {words}, {sum(won)} of {len(won)} settings ({change})"


def document(run: Record) -> str:
    """Return the document.

    Args:
        run: machines, commands and records.
    """
    # what stands above the chapters of all records
    records, commands = run["records"], "\n".join(f"    {typed}" for typed in dict.fromkeys(run["commands"]))
    steps, repeats = ("/".join(map(str, sorted({r[key] for r in records}))) for key in ("steps", "repeats"))
    verdicts = "\n".join(f"- {verdict(record)}" for record in records)
    head = f"""# A budget in milliseconds

Would a budget in measured milliseconds win over one in FLOPs? Milliseconds against FLOPs, at the same predicted
latency, as fractions of the dense network's:

{verdicts}

Milliseconds win if in every setting the measured time is no longer (its median is at most the highest time of the
network pruned by FLOPs) and the importance kept is higher by more than {MORE}.

{commands}

{"; ".join(dict.fromkeys(run["machines"]))}

- **ms**: convs, linears and batch norms of the dense network are timed at this batch; the time of other operators is
  spread over the batch norms. A layer's time is shared evenly by its elements (channels in x channels out of a conv),
  and the selection that otherwise spends FLOPs spends it. The budget is the latency predicted in this way for the
  network that was pruned to the target in **FLOPs**.
- **time** is relative to the dense network in the same repeat, median of {repeats}; CPU time of the process, in eager
  mode. Networks take turns; of short runs, several make a turn, and several turns a repeat (their median).
- **Importance** is what gdp ranks channels by, learned in {steps} steps of SGD from random weights on {CLASSES} blurred
  patterns in noise, {BATCH} images a step; channels were then closed at once. No accuracy belongs to these networks.
"""
    return "\n".join([head, *(f"## {record['title']}\n\n{section(record)}" for record in records)])
