"""Two floors: what HTTP costs without a framework, and what FastAPI costs without a model."""

from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel

from contract.datasets.housing import HousingRow


async def echo(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer a request with its own body, as plain ASGI."""
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Prediction(BaseModel):
    """An answer."""

    prediction: float


app = FastAPI()


@app.post("/predict/housing")
async def predict_housing(row: HousingRow) -> Prediction:
    """Validate the row, answer a constant."""
    return Prediction(prediction=row.MedInc)
