"""Datasets of the tests' own, with every kind of feature; they are not in the registry."""

from datetime import UTC, date, datetime

from contract.dataset import Dataset, Target
from contract.feature import Unknown
from contract.row import Row, category, day, feature, flag, moment

DISTRICTS = tuple(f"district {number}" for number in range(60))


class VoyageRow(Row):
    """A voyage: each kind required and optional, a name that is none of Python, a vocabulary of 60."""

    fare: float = feature(unit="USD", minimum=0, maximum=600, description="Fare.", example=7.25)
    age: float | None = feature(unit="years", minimum=0, maximum=120, description="Age.", example=22.5)
    siblings: int = feature(unit="persons", minimum=0, maximum=20, description="Siblings aboard.", example=1)
    cabins: int | None = feature(unit="cabins", minimum=0, maximum=9, description="Cabins.", example=2)
    insured: bool = flag(description="Whether there is an insurance.", example=True)
    returned: bool | None = flag(description="Whether the passenger came back.", example=False)
    port: str = category("Cherbourg", "Queenstown", "Southampton", description="Port.", example="Southampton")
    deck: str | None = category("A", "B", "C", description="Deck.", example="B")
    agency: str = category("Cook", "Lunn", description="Agency.", example="Cook", unknown=Unknown.OTHER)
    district: str | None = category(
        *DISTRICTS, description="Home.", example="district 7", unknown=Unknown.OTHER, alias="Home district (1912)"
    )
    born: date = day(
        minimum=date(1820, 1, 1), maximum=date(1912, 4, 10), description="Birthday.", example=date(1890, 2, 28)
    )
    married: date | None = day(
        minimum=date(1840, 1, 1), maximum=date(1912, 4, 10), description="Wedding.", example=date(1908, 2, 29)
    )
    booked: datetime = moment(
        minimum=datetime(1911, 1, 1, tzinfo=UTC),
        maximum=datetime(1912, 4, 10, 12, tzinfo=UTC),
        description="Booking.",
        example=datetime(1912, 1, 31, 9, 30, tzinfo=UTC),
    )
    paid: datetime | None = moment(
        minimum=datetime(1911, 1, 1, tzinfo=UTC),
        maximum=datetime(1912, 4, 10, 12, tzinfo=UTC),
        description="Payment.",
        example=datetime(1912, 2, 1, tzinfo=UTC),
    )


VOYAGE = Dataset(
    name="voyage",
    description="Whether a passenger survives.",
    row=VoyageRow,
    target=Target(name="survived", unit="class", description="Outcome.", classes=("lost", "saved")),
)


class ParcelRow(Row):
    """A parcel: numbers alone, one of which may be missing and one of which is whole."""

    weight: float | None = feature(unit="kg", minimum=0, maximum=50, description="Weight.", example=1.5)
    pieces: int = feature(unit="pieces", minimum=1, maximum=99, description="Pieces.", example=3)


PARCEL = Dataset(
    name="parcel",
    description="Price of a parcel.",
    row=ParcelRow,
    target=Target(name="price", unit="USD", description="Price.", minimum=0, maximum=1000),
)

KINDS = {dataset.name: dataset for dataset in (VOYAGE, PARCEL)}
