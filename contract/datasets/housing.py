"""California Housing: one block group of the 1990 U.S. census a row (Pace & Barry, 1997)."""

from contract.dataset import Dataset, Target
from contract.row import Row, feature


class HousingRow(Row):
    """One census block group of California. Ranges hold the whole census table with room around it."""

    MedInc: float = feature(
        unit="10,000 USD",
        minimum=0,
        maximum=50,
        description="Median household income.",
        example=8.3252,
    )
    HouseAge: float = feature(
        unit="years",
        minimum=0,
        maximum=150,
        description="Median age of the houses.",
        example=41,
    )
    AveRooms: float = feature(
        unit="rooms per household",
        minimum=0.1,
        maximum=500,
        description="Average number of rooms.",
        example=6.984127,
    )
    AveBedrms: float = feature(
        unit="bedrooms per household",
        minimum=0.05,
        maximum=100,
        description="Average number of bedrooms.",
        example=1.02381,
    )
    Population: float = feature(
        unit="persons",
        minimum=1,
        maximum=100_000,
        description="Population of the block group.",
        example=322,
    )
    AveOccup: float = feature(
        unit="persons per household",
        minimum=0.1,
        maximum=5_000,
        description="Average number of household members.",
        example=2.555556,
    )
    Latitude: float = feature(
        unit="degrees north",
        minimum=32,
        maximum=43,
        description="Latitude of the block group's centre, within California.",
        example=37.88,
    )
    Longitude: float = feature(
        unit="degrees east",
        minimum=-125,
        maximum=-114,
        description="Longitude of the block group's centre, within California (negative: west of Greenwich).",
        example=-122.23,
    )


HOUSING = Dataset(
    name="housing",
    description="Median house value of a Californian census block group.",
    row=HousingRow,
    target=Target(
        name="MedHouseVal",
        unit="100k USD",
        description="Median house value of the block group; the census cut it off at 5.00001.",
        minimum=0,
        maximum=20,
    ),
)
