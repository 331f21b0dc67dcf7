"""FastAPI as people write it: a pydantic row, and scikit-learn's ``predict`` for each request."""

import os

import skops.io
from answers import Prediction, Predictions
from fastapi import FastAPI

from contract.datasets.housing import HOUSING, HousingRow

PATH = os.environ["BENCHMARK_ESTIMATOR"]
estimator = skops.io.load(PATH, trusted=skops.io.get_untrusted_types(file=PATH))
app = FastAPI()


@app.post("/predict/housing")
async def predict_housing(row: HousingRow) -> Prediction:
    """Median house value of one census block group."""
    return Prediction(prediction=float(estimator.predict(HOUSING.matrix([row]))[0]))


@app.post("/predict/housing/batch")
async def predict_housing_batch(batch: HOUSING.rows) -> Predictions:
    """Median house values of several."""
    return Predictions(predictions=estimator.predict(HOUSING.matrix(batch.rows)).tolist())
