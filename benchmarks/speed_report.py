"""The table and the two figures of a speed run: ``python -m benchmarks.speed_report cpu``."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
AIMS = {
    "cpu": {
        "upstream_over_ours.best_of_n.n8": "≥ 6",
        "upstream_over_ours.stage_beam_judge.n4": "≥ 3",
        "transformers_over_ours.stage_beam_logprob.n8": "≥ 2",
        "transformers_static_over_ours.stage_beam_logprob.n8": "",
        "ours.stage_beam_logprob.n8_over_n1": "≤ 1.4",
        "ours.in_flight_32_over_serial": "≥ 6",
        "ours.batch8_over_generate": "≤ 0.5",
        "vllm_cpu_over_ours.stage_beam.n8": "≥ 1",
    },
    "gpu": {
        "upstream_over_ours.best_of_n.n8": "",
        "upstream_over_ours.stage_beam_judge.n4": "≥ 10",
        "transformers_over_ours.stage_beam_logprob.n8": "",
        "ours.stage_beam_logprob.n8_over_n1": "",
        "ours.in_flight_32_over_serial": "",
        "ours.batch8_over_generate": "",
        "ours.decode_step.n8_over_n1": "≤ 1.15",
        "ours.decode_step_over_floor.n8": "≤ 1.4",
    },
}
"""What was aimed at, on an H200 for the GPU."""


AXES_OF = {
    "candidates": "candidates N", "in_flight": "questions in flight", "tiles": "image tiles",
    "stage_tokens": "tokens a stage",
}  # fmt: skip


def table(report: dict[str, Any]) -> str:
    machine, versions = report["machine"], report["versions"]
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    lines = [
        f"{report['date']}, {where}, torch {versions['torch']}, transformers {versions['transformers']}, "
        f"{report['rounds']} rounds.",
        "",
        "| ratio | aim | median | least | greatest |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for name, aim in AIMS["gpu" if machine["gpu"] else "cpu"].items():
        value = report["ratios"].get(name)
        figures = "not run | | " if value is None else "{median:.2f} | {min:.2f} | {max:.2f}".format(**value)
        lines.append(f"| `{name}` | {aim} | {figures} |")
    lines += ["", "| decoding step | ms | bytes that must move, MB | at the measured copy bandwidth, ms | step / floor |",
              "| --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for rows, found in report["floor"].items():
        lines.append(
            f"| {rows} rows | {1e3 * found['step_seconds']:.1f} | {found['bytes'] / 1e6:.0f} "
            f"| {1e3 * found['floor_seconds']:.1f} | {found['step_over_floor']:.2f} |"
        )
    for name, found in report["growth"].items():
        points = list(found["seconds"])
        medians = [statistics.median(values) for values in found["seconds"].values()]
        lines += [
            "", f"| {AXES_OF[name]} | {' | '.join(points)} |", "| --- |" + " ---: |" * len(points),
            "| seconds | " + " | ".join(f"{value:.2f}" for value in medians) + " |",
            "| peak memory beyond the model, MB | "
            + " | ".join(f"{found['peak_bytes'][point] / 1e6:.0f}" for point in points) + " |",
        ]  # fmt: skip
    return "\n".join(lines)


def bars(report: dict[str, Any], out: Path) -> None:
    """The same search, three ways."""
    seconds = {name: statistics.median(values) for name, values in report["seconds"].items()}
    groups = {
        "best-of-8,\nlog-prob": ["upstream.best_of_n.n8", None, "ours.best_of_n.n8"],
        "stage beam 4,\nself-judge": ["upstream.judge.n4", None, "ours.judge.n4"],
        "stage beam 8,\nlog-prob": [None, "transformers.n8", "ours.n8"],
        "one stage,\n8 candidates": [None, "generate.batch8", "ours.batch8"],
    }
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for at, (label, colour) in enumerate((("upstream's algorithm", "#b0413e"), ("generate, a call a stage", "#d9a441"),
                                          ("structdecode", "#2f6f8f"))):  # fmt: skip
        for x, names in enumerate(groups.values()):
            if names[at] is not None:
                bar = axes.bar(
                    x + (at - 1) * 0.27, seconds[names[at]], 0.25, color=colour, label=label if x in (0, 2) else ""
                )
                axes.bar_label(bar, fmt="%.1f", fontsize=7)
    axes.set_xticks(range(len(groups)), groups, fontsize=8)
    axes.set_ylabel("seconds a question (median)")
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    axes.legend(unique.values(), unique, fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def curves(report: dict[str, Any], out: Path) -> None:
    """Time along each axis, on a scale where proportional growth would be a straight diagonal."""
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.8), layout="constrained")
    for axis, (name, label) in zip(axes, AXES_OF.items(), strict=True):
        seconds = report["growth"][name]["seconds"]
        points = [int(p) for p in seconds]
        medians = [statistics.median(values) for values in seconds.values()]
        axis.plot(points, medians, "o-", color="#2f6f8f", label="measured")
        axis.plot(points, [medians[0] * p / points[0] for p in points], ":", color="grey", label="proportional")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xticks(points, [str(p) for p in points])
        axis.set_xlabel(label)
        axis.yaxis.set_major_formatter("{x:.3g}")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("seconds")
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    report = json.loads((ROOT / f"benchmarks/results/{device}.json").read_text())
    readme = ROOT / "benchmarks/README.md"
    text, begin, end = readme.read_text(), f"<!-- {device} -->\n", f"<!-- /{device} -->"
    head, rest = text.split(begin)
    readme.write_text(head + begin + table(report) + "\n" + end + rest.split(end)[1])
    bars(report, ROOT / f"docs/speed-{device}.svg")
    if report["growth"]:
        curves(report, ROOT / f"docs/speed-growth-{device}.svg")
    print(table(report))


if __name__ == "__main__":
    main()
