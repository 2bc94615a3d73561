"""Plots of the results: for each shape, useful TFLOP/s against density."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402 (the backend comes first)

from tables import Results, shape_title  # noqa: E402


def draw(results, folder):
    """One PNG a shape that has sparse results; gives their paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    paths = []
    for shape in results.shapes():
        sparse = {key: rows for key, rows in results.rows[shape].items() if key != Results.DENSE}
        if not sparse:
            continue
        figure, axes = pyplot.subplots(figsize=(8, 4.5))
        for (block, lists), points in sorted(series(sparse).items()):
            for name, values in sorted(points.items()):
                densities, rates = zip(*sorted(values))
                style = "o-" if name == "lacuna" else "s--"
                label = f"{name}, blocks of {block}, {lists} list{'s' if lists > 1 else ''}"
                axes.plot([100 * d for d in densities], rates, style, label=label)
        for name, result in sorted(results.rows[shape].get(Results.DENSE, {}).items()):
            axes.axhline(result["tflops"], linewidth=0.8, color="grey")
            axes.annotate(f"{name}, dense", (1.0, result["tflops"]), xycoords=("axes fraction", "data"), fontsize=7)
        axes.set(xlabel="density, %", ylabel="useful TFLOP/s", title=shape_title(shape), ylim=(0, None))
        axes.legend(fontsize=7)
        head_dim, q_heads, kv_heads, length, causal = shape
        kind = "causal" if causal else "full"
        path = Path(folder) / f"d{head_dim}_h{q_heads}_{kv_heads}_n{length}_{kind}.png"
        figure.savefig(path, dpi=130, bbox_inches="tight")
        pyplot.close(figure)
        paths.append(path)
    return paths


def series(sparse):
    """(block, lists) -> row -> [(density, TFLOP/s)]."""
    found = {}
    for (block, lists, density), rows in sparse.items():
        for name, result in rows.items():
            found.setdefault((block, lists), {}).setdefault(name, []).append((density, result["tflops"]))
    return found
