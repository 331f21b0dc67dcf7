"""Residuals of a regression model by region, on a map."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter

from contract.dataset import Dataset
from contract.table import FloatMatrix
from training.evaluation.plots import INK, Figure, canvas, signed, write_csv

Places = Mapping[str, tuple[float, float]]
"""Latitude and longitude, in degrees, by name: for orientation."""


def residual_map(
    dataset: Dataset,
    position: FloatMatrix,
    residual: FloatMatrix,
    everywhere: FloatMatrix,
    places: Places,
    directory: Path,
    *,
    cells: int,
    minimum_rows: int,
) -> Figure:
    """Mean residual in hexagons of a map.

    No base map is downloaded: the light grey cloud of every row of the dataset draws the land that is lived in.

    Args:
        position: latitude and longitude of each test row, in degrees, of shape ``[N, 2]``.
        residual: actual minus predicted, of shape ``[N]``, in the target's unit.
        everywhere: latitude and longitude of all rows of the dataset, of shape ``[M, 2]``.
        places: names for orientation; those off the map are left out.
        cells: hexagons across the map.
        minimum_rows: hexagons with fewer test rows are not drawn: their mean is noise.
    """
    slug = "residual_map"
    unit = dataset.target.unit
    (south, west), (north, east) = everywhere.min(axis=0), everywhere.max(axis=0)
    margin = 0.03 * max(north - south, east - west, 0.01)
    # A degree of longitude is shorter than one of latitude by the cosine of the latitude.
    stretch = 1 / np.cos(np.radians((south + north) / 2))
    height, width = north - south + 2 * margin, (east - west + 2 * margin) / stretch
    rows_of_cells = max(1, round(cells * height / width / np.sqrt(3)))  # makes the hexagons regular
    image, data = directory / f"{slug}.png", directory / f"{slug}.csv"
    with canvas(image, min(8.6, 5.1 * height / width + 0.9)) as figure:
        axes = figure.add_subplot(aspect=stretch)
        axes.scatter(everywhere[:, 1], everywhere[:, 0], s=7, color="#DEDEDE", linewidths=0)
        residual_cells = partial(
            axes.hexbin,
            position[:, 1],
            position[:, 0],
            residual,
            gridsize=(cells, rows_of_cells),
            extent=(west - margin, east + margin, south - margin, north + margin),
            mincnt=minimum_rows,
            cmap="PuOr_r",
            linewidths=0.2,
            edgecolors="white",
        )
        counted = residual_cells(reduce_C_function=np.size, visible=False)
        hexagons = residual_cells(reduce_C_function=np.mean)
        means = np.asarray(hexagons.get_array(), dtype=np.float64)
        # Symmetric, so that white is zero; cut at the 95 % quantile, so that one odd hexagon does not bleach the rest.
        limit = float(np.quantile(np.abs(means), 0.95)) if len(means) else 1.0
        hexagons.set_clim(-limit, limit)
        for name, (latitude, longitude) in places.items():
            if south <= latitude <= north and west <= longitude <= east:
                axes.plot(longitude, latitude, "o", color=INK, markersize=3.5, markeredgecolor="white")
                # On the emptier side, so that the name hides little: for a town on the coast that is the sea.
                near = np.abs(everywhere[:, 0] - latitude) < 0.03 * (north - south)
                left = (near & (everywhere[:, 1] < longitude)).sum() < (near & (everywhere[:, 1] > longitude)).sum()
                text = axes.annotate(
                    name, (longitude, latitude), xytext=(-6 if left else 6, 0), textcoords="offset points", va="center",
                    ha="right" if left else "left",
                )  # fmt: skip
                text.set_path_effects([withStroke(linewidth=3, foreground="white")])
        bar = figure.colorbar(hexagons, ax=axes, shrink=0.6, aspect=26, extend="both")
        bar.outline.set_visible(False)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: signed(value) if round(value, 6) else "0"))
        bar.set_label(f"mean residual: actual − predicted ({unit})\n← predicted too high    predicted too low →")
        axes.set(xlim=(west - margin, east + margin), ylim=(south - margin, north + margin))
        axes.xaxis.set_major_formatter("{x:g}°")
        axes.yaxis.set_major_formatter("{x:g}°")
        axes.set_xlabel("longitude, east")
        axes.set_ylabel("latitude, north")
        axes.set_title(f"{dataset.name}: where the model is off, {len(residual):,} test rows")
        centres = np.asarray(hexagons.get_offsets(), dtype=np.float64)
        counts = np.asarray(counted.get_array(), dtype=np.int64)
    write_csv(data, {"longitude": centres[:, 0], "latitude": centres[:, 1], "mean_residual": means, "rows": counts})
    return Figure(
        slug,
        "Residuals by region",
        image,
        data,
        f"Map of {len(means)} hexagons coloured by mean residual, from {signed(-limit)} to {signed(limit)} ({unit}).",
        f"The mean residual of the test rows in each hexagon with at least {minimum_rows} of them; grey dots are all "
        "rows of the data and draw the land that is lived in.",
        "Orange regions have higher values than the model says, purple ones lower, white ones are right on average. "
        "Patches of one colour mean that a place has something that the features do not tell; a speckle is noise.",
    )
