"""Iris: one flower a row (Fisher, 1936, The use of multiple measurements in taxonomic problems)."""

from contract.dataset import Dataset, Target
from contract.row import Row, feature


class IrisRow(Row):
    """One iris flower, measured in centimetres. Ranges hold Fisher's table with room around it."""

    sepal_length: float = feature(unit="cm", minimum=1, maximum=15, description="Length of the sepal.", example=5.1)
    sepal_width: float = feature(unit="cm", minimum=0.5, maximum=10, description="Width of the sepal.", example=3.5)
    petal_length: float = feature(unit="cm", minimum=0.1, maximum=15, description="Length of the petal.", example=1.4)
    petal_width: float = feature(unit="cm", minimum=0.01, maximum=8, description="Width of the petal.", example=0.2)


IRIS = Dataset(
    name="iris",
    description="Species of an iris flower.",
    row=IrisRow,
    target=Target(
        name="species",
        unit="class",
        description="Species of the flower.",
        classes=("setosa", "versicolor", "virginica"),
    ),
)
