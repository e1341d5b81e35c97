"""Figures that several kinds of study draw: ratios by column and cell, performance profiles, and curves of losses."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.page import colours, figure_of, panels
from experiments.study.time_to_result import LARGEST, MEASURES, Columns, profile, ratios

ACROSS = 4  # panels of the figure of curves


def heatmap(cells: Sequence[str], ratios: Mapping[str, Sequence[float]], label: str, decades: float = 3) -> Any:
    """A square for every column and cell, blue where the ratio of the column in the cell is below 1.

    Args:
      cells: their names.
      ratios: of each column, one for every cell.
      label: what the logarithm is of.
      decades: where the colours end.
    """
    logs = np.log10([[max(ratio, 1e-30) for ratio in of_column] for of_column in ratios.values()])
    figure = figure_of(4 + 0.42 * len(cells), 2.5 + 0.3 * len(ratios))
    axes = figure.subplots()
    drawn = axes.imshow(np.clip(logs, -decades, decades), cmap="RdBu_r", vmin=-decades, vmax=decades, aspect="auto")
    axes.set_xticks(range(len(cells)), cells, rotation=90, fontsize=8)
    axes.set_yticks(range(len(ratios)), list(ratios), fontsize=8)
    figure.colorbar(drawn, label=label)
    return figure


def profiles(rivals: Columns) -> Any:
    """The shares of workloads that are finished within a multiple of the shortest time of all rivals."""
    figure = figure_of(11, 3.8)
    at = np.geomspace(1, LARGEST, 200)
    for axes, measure in zip(figure.subplots(1, 2, sharey=True), MEASURES, strict=True):
        axes.set_prop_cycle(color=colours("tab20"))
        for column, ratio in zip(rivals, ratios(rivals, rivals, measure), strict=True):
            style = {"lw": 2.4} if column["learned"] else {"lw": 1.2}
            axes.step(at, profile(ratio, at), where="post", label=column["name"], **style)
        axes.set(xscale="log", xlabel=f"{measure} to the target / the fewest", xlim=(1, LARGEST), ylim=(0, 1.02))
        axes.set_xticks([1, 2, 3, 4], ["1", "2", "3", "4"])
        axes.minorticks_off()
    figure.axes[0].set_ylabel("share of workloads")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=7)
    return figure


def curves(cells: Sequence[str], losses: Mapping[str, Sequence[Mapping[str, Any]]], thick: Collection[str]) -> Any:
    """A panel for every cell, with a line for every column.

    Args:
      cells: their names.
      losses: of each column, what `experiments.study.losses.smoothed` returns, one for every cell.
      thick: names of the columns that are set off.
    """
    figure, places = panels(len(cells), ACROSS, 4, 2.6)
    for index, (axes, cell) in enumerate(zip(places, cells, strict=True)):
        for name, found in losses.items():
            every, loss = found[index]["every"], found[index]["loss"]
            axes.plot(np.arange(len(loss)) * every, loss, lw=1.8 if name in thick else 1, label=name)
        axes.set(yscale="log", title=cell)
        axes.title.set_fontsize(9)
    figure.axes[0].legend(fontsize=6)
    return figure
