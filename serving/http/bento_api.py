"""The prediction routes as API methods of the Bento.

``bentoml build`` writes them down, and BentoML's clients read them from ``/schema.json`` and offer them as methods. The
routes themselves are answered by ``serving.http.predictions``; a method that is called in Python goes through the same
``Predictor.predict``.
"""

from typing import TYPE_CHECKING, Any, TypeVar

import bentoml

from contract import DATASETS
from contract.errors import BundleError
from serving.http.predictions import PredictionApi, prediction_apis
from serving.telemetry.call import Call, Endpoint
from serving.telemetry.request_log import RequestLog

if TYPE_CHECKING:
    from serving.bundle import Bundle

S = TypeVar("S")


def _method(api: PredictionApi) -> Any:
    endpoint = Endpoint(api.path, "http", api.dataset)

    async def predict(self: Any, body: Any, /) -> Any:
        bundle: Bundle = self.bundle
        with Call(endpoint, None, RequestLog(slow_seconds=float("inf"))) as call:
            try:
                prediction = await bundle[api.dataset.name].predict(api.matrix(body), call)
            except Exception as error:
                call.status, call.error = getattr(error, "status", BundleError.status), error
                raise
            call.status = 200
        return api.gives.model_validate(api.answer(prediction))

    predict.__name__ = api.name
    predict.__qualname__ = api.name
    predict.__doc__ = api.summary
    # BentoML reads what a method takes and gives from its annotations.
    predict.__annotations__ = {"body": api.takes, "return": api.gives}
    return bentoml.api(route=api.path)(predict)


def with_prediction_methods(service: type[S]) -> type[S]:
    """Add a method for each prediction route to the class of the service."""
    for api in prediction_apis(DATASETS.values()):
        setattr(service, api.name, _method(api))
    return service
