"""What the two FastAPI servers answer."""

from pydantic import BaseModel


class Prediction(BaseModel):
    """The answer to one row."""

    prediction: float


class Predictions(BaseModel):
    """The answer to several rows."""

    predictions: list[float]
