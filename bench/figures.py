"""Makes charts and tables of results: python bench/figures.py [models.json] [blocks.json]

Of networks: docs/images/bench.svg and bench.png, and what stands between the lines
``<!-- bench -->`` and ``<!-- /bench -->`` of README.md, the table and the machine's name. Of
blocks: what stands between ``<!-- blocks -->`` and ``<!-- /blocks -->`` of docs/benchmarks.md.
Without arguments: of both results in bench/results.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import matplotlib

from weebill.bench.results import OURS, Result, Row, fastest_peer, grouped, ours, read_result
from weebill.bench.stats import geometric_mean
from weebill.bench.tables import Table, to_markdown

matplotlib.use("Agg")
matplotlib.rcParams.update(
    {
        "svg.fonttype": "none",
        "svg.hashsalt": "weebill",  # the same file from the same result
        "font.family": "DejaVu Sans",
        "font.size": 9,
    }
)

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
IMAGES = ROOT / "docs" / "images"
README = ROOT / "README.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
COLOURS = ["#3b6ea5", "#5a9e6f", "#b07aa1", "#e0a030", "#3f9aa8", "#8c6d5a", "#7a86c8", "#98a13d"]
OUR_COLOUR = "#d1495b"


def machine(result: Result) -> str:
    """What it was measured on, in a sentence."""
    context = result.context
    versions = ", ".join(
        f"{row.engine} {row.version}"
        for row in {row.engine: row for row in result.rows if row.wall_ms}.values()
    )
    return (
        f"Measured {context['date'][:10]} on {context['cpu_model']} ({context['isa']}, "
        f"{context['num_cpus']} cores, Linux {context['kernel']}), float32, batch 1, with "
        f"{versions}."
    )


def table(result: Result) -> Table:
    """Our latency, the fastest peer's, and the ratio with its interval."""
    right = ("threads", "weebill, ms", "fastest other, ms", "ratio")
    lines = []
    ratios = []
    for rows in grouped(result.rows):
        base, peer = ours(rows), fastest_peer(rows)
        if base is None or base.wall_ms is None or peer is None:
            continue
        assert peer.wall_ms is not None
        assert peer.ratio is not None
        ratio = peer.ratio
        ratios.append(ratio.value)
        lines.append(
            (
                base.suite,
                str(base.threads),
                f"{base.wall_ms.median:.2f}" + ("*" if base.tainted else ""),
                f"{peer.wall_ms.median:.2f}" + ("*" if peer.tainted else ""),
                f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})",
                peer.engine,
            )
        )
    lines.append(("geometric mean", "", "", "", f"{geometric_mean(ratios):.2f}", ""))
    return Table("", ("network", *right, "which"), tuple(lines), right)


def chart(result: Result) -> None:
    """Time over ours, one panel per network, bars per engine and thread count."""
    from matplotlib import pyplot

    groups = [rows for rows in grouped(result.rows) if ours(rows) is not None]
    networks = list(dict.fromkeys(rows[0].suite for rows in groups))
    threads = sorted({rows[0].threads for rows in groups})
    engines = list(dict.fromkeys(r.engine for r in result.rows if r.ratio and r.engine not in OURS))
    colours = {engine: COLOURS[i % len(COLOURS)] for i, engine in enumerate(engines)}
    size = (3.1 * len(networks), 0.9 + 0.24 * len(threads) * (len(engines) + 1))
    figure, panels = pyplot.subplots(
        len(threads), len(networks), figsize=size, squeeze=False, sharey=True, sharex="col"
    )
    for rows in groups:
        panel = panels[threads.index(rows[0].threads)][networks.index(rows[0].suite)]
        by_engine: dict[str, Row] = {row.engine: row for row in rows}
        for place, engine in enumerate(["weebill", *engines]):
            row = by_engine.get(engine)
            if engine == "weebill":
                panel.barh(place, 1.0, color=OUR_COLOUR)
            elif row is not None and row.ratio is not None:
                value, low, high = row.ratio.value, row.ratio.low, row.ratio.high
                panel.barh(
                    place,
                    value,
                    xerr=[[value - low], [high - value]],
                    color=colours[engine],
                    error_kw={"elinewidth": 1, "ecolor": "#444444"},
                )
                panel.text(high, place, f"  {value:.2f}", va="center", fontsize=8)
        panel.set_yticks(range(len(engines) + 1), ["weebill", *engines])
        panel.axvline(1.0, color="#222222", lw=0.8, ls=":")
        panel.margins(x=0.2)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0][0].invert_yaxis()
    for panel, network in zip(panels[0], networks, strict=True):
        panel.set_title(network, fontsize=10)
    for line, count in zip(panels, threads, strict=True):
        line[0].set_ylabel(f"{count} thread" + ("" if count == 1 else "s"))
    figure.supxlabel("time / time of weebill (shorter is faster)", fontsize=9)
    figure.tight_layout()
    IMAGES.mkdir(parents=True, exist_ok=True)
    figure.savefig(IMAGES / "bench.svg", metadata={"Date": None})
    figure.savefig(IMAGES / "bench.png", dpi=150)


def block_table(result: Result) -> Table:
    """Microseconds and shares of the FMA peak of ours and the fastest other, by block."""
    right = ("weebill, us", "of peak", "no torch, us", "fastest other, us", "its share", "ratio")
    lines = []
    ratios = []
    for rows in grouped(result.rows):
        base, peer = ours(rows), fastest_peer(rows)
        assert base is not None
        assert peer is not None
        assert peer.ratio is not None
        native = next(row for row in rows if row.engine == "weebill_native")
        ratios.append(peer.ratio.value)
        lines.append(
            (
                base.case.removeprefix("mobilenet_v3_").replace(".", ": "),
                _microseconds(base),
                _percent(base),
                _microseconds(native),
                _microseconds(peer),
                _percent(peer),
                f"{peer.ratio.value:.2f} ({peer.ratio.low:.2f} to {peer.ratio.high:.2f})",
                peer.engine,
            )
        )
    below = sum(ratio < 1.0 for ratio in ratios)
    mean = f"{geometric_mean(ratios):.2f}, {below} of {len(ratios)} below 1"
    lines.append(("geometric mean", "", "", "", "", "", mean, ""))
    return Table("", ("block", *right, "which"), tuple(lines), right)


def _microseconds(row: Row) -> str:
    return f"{1e3 * row.wall_ms.median:.0f}" + ("*" if row.tainted else "") if row.wall_ms else ""


def _percent(row: Row) -> str:
    return f"{row.peak_share:.0%}" if row.peak_share else ""


def replace_marked(path: Path, name: str, made: str) -> None:
    """Put `made` between the lines ``<!-- name -->`` and ``<!-- /name -->`` of a file.

    Raises:
        ValueError: It has no such lines.
    """
    marked = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    text = path.read_text()
    if not marked.search(text):
        raise ValueError(f"{path}: must have the lines <!-- {name} --> and <!-- /{name} -->")
    path.write_text(marked.sub(lambda found: found[1] + made + found[2], text))


def show(result: Result) -> None:
    """Chart and table of networks, or the table of blocks, where they belong."""
    networks = result.context["kind"] == "models"
    shown = to_markdown(table(result) if networks else block_table(result))
    made = shown + "\n" + machine(result) + "\n"
    if "*" in shown:
        made += (
            "\n\\* Threads waited for a core in too many rounds, for other work or each other.\n"
        )
    if networks:
        chart(result)
        image = "![Time of other engines over weebill's](docs/images/bench.svg)\n\n"
        replace_marked(README, "bench", image + made)
    else:
        replace_marked(BENCHMARKS, "blocks", made)


def main() -> None:
    """Entry point."""
    paths = [Path(name) for name in sys.argv[1:]]
    for path in paths or (RESULTS / "models.json", RESULTS / "blocks.json"):
        show(read_result(path))


if __name__ == "__main__":
    main()
