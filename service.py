"""The Bento: routes that translate and never decide. Start it with ``bentoml serve``."""

import os

import bentoml

from contract import DATASETS
from contract.housing import HOUSING, HousingRow, HousingRows
from contract.iris import IRIS, IrisRow, IrisRows
from serving.app import BundleService, bento_version
from serving.bundle import load_bundle
from serving.draining import DRAINING
from serving.errors import startup_errors
from serving.http import guard
from serving.models import deployed_model
from serving.predictions import (
    ClassificationPrediction,
    ClassificationPredictions,
    RegressionPrediction,
    RegressionPredictions,
)
from serving.protocol.grpc import GrpcServer
from serving.protocol.inference import Inference
from serving.settings import Settings
from serving.startup import check_deployment
from serving.telemetry import calls, logs, metrics_directory, scrape, series, tracing

metrics_directory.take_own()

NAME = "ml_prediction_bundle"
with startup_errors():
    SETTINGS = Settings.from_environment(os.environ)
    logs.configure(SETTINGS)
    guard.install(SETTINGS)
    MODELS = {dataset: deployed_model(dataset.name, SETTINGS.MODELS_DIR) for dataset in DATASETS.values()}


@bentoml.service(  # type: ignore[operator]  # mypy takes the function for the module of that name
    name=NAME,
    service_class=BundleService,
    workers=SETTINGS.WORKERS or "cpu_count",
    http={"host": SETTINGS.API_HOST, "port": SETTINGS.API_PORT},
    # A line a request halves the throughput; metrics count them, and errors are logged.
    logging={"access": {"enabled": False}},
    tracing=tracing.configuration(SETTINGS),
)
class PredictionService:
    """Predictions of house values in California and of iris species, batched together across requests."""

    settings = SETTINGS
    models = MODELS

    def __init__(self) -> None:
        with startup_errors():
            self.bundle = load_bundle(MODELS, SETTINGS)
        self.inference = Inference(self.bundle, NAME, bento_version())
        self.grpc = GrpcServer(self.inference, SETTINGS)

    @bentoml.on_deployment
    @staticmethod
    def check() -> None:
        """Stop before the workers start if a model or the port would not do."""
        with startup_errors():
            check_deployment(MODELS, SETTINGS)

    @bentoml.on_startup
    async def start(self) -> None:
        """Warm up, bind the gRPC port, and only then be ready, over both protocols."""
        scrape.tidy()
        series.WORKER_STARTS.inc()
        self.bundle.warm_up()
        with startup_errors():
            await self.grpc.start()
        self.bundle.open()
        self.grpc.open()
        DRAINING.on_sigterm(self.drain, SETTINGS.DRAIN_SECONDS)

    def drain(self) -> None:
        """Stop being ready, over both protocols; what comes all the same is still answered."""
        self.bundle.drain()
        self.grpc.drain()

    @bentoml.on_shutdown
    async def stop(self) -> None:
        """Finish what was taken."""
        self.bundle.drain()
        await self.grpc.stop(SETTINGS.TIMEOUT_SECONDS)
        await self.bundle.close()
        calls.flush()

    async def __is_ready__(self) -> bool:
        """For ``/readyz``."""
        return self.bundle.ready

    @bentoml.api(route="/predict/housing")
    async def predict_housing(self, row: HousingRow, /) -> RegressionPrediction:
        """Median house value of one census block group."""
        return await self.bundle[HOUSING.name].regress(row)

    @bentoml.api(route="/predict/housing/batch")
    async def predict_housing_batch(self, batch: HousingRows, /) -> RegressionPredictions:
        """Median house values of 1 to 10,000 census block groups."""
        return await self.bundle[HOUSING.name].regress_batch(batch.rows)

    @bentoml.api(route="/predict/iris")
    async def predict_iris(self, row: IrisRow, /) -> ClassificationPrediction:
        """Species of one flower."""
        return await self.bundle[IRIS.name].classify(row)

    @bentoml.api(route="/predict/iris/batch")
    async def predict_iris_batch(self, batch: IrisRows, /) -> ClassificationPredictions:
        """Species of 1 to 10,000 flowers."""
        return await self.bundle[IRIS.name].classify_batch(batch.rows)
