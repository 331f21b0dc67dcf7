"""FastAPI with the ONNX session: a pydantic row, one call of onnxruntime for each request."""

from answers import Prediction, Predictions
from fastapi import FastAPI

from contract.datasets.housing import HOUSING, HousingRow
from load_tests.benchmark.peers import onnx_model

predict = onnx_model.load()
app = FastAPI()


@app.post("/predict/housing")
async def predict_housing(row: HousingRow) -> Prediction:
    """Median house value of one census block group."""
    return Prediction(prediction=float(predict(HOUSING.matrix([row]))[0]))


@app.post("/predict/housing/batch")
async def predict_housing_batch(batch: HOUSING.rows) -> Predictions:
    """Median house values of several."""
    return Predictions(predictions=predict(HOUSING.matrix(batch.rows)).tolist())
