"""The reasons for which the worker asks for a retraining by itself: a schedule, drift, live quality."""

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime

from sqlalchemy import Engine

from contract import DATASETS
from contract.dataset import Dataset, Task
from contract.errors import BundleError
from ledger import drift, jobs, quality
from ledger.jobs import NotNow, Trigger
from loop.deployed import deployed_model
from loop.schedule import Schedule
from loop.settings import LoopSettings
from model.drift import Verdict
from training import params

log = logging.getLogger(__name__)

WINDOW = "24h"
"""The window of live quality."""
MINIMUM_LABELS = 50
"""With fewer labelled rows, live quality triggers nothing."""


class Triggers:
    """Looks for reasons to retrain, and asks for it. Call it about twice a minute.

    Args:
        engine: of the ledger's database.
        settings: schedules and limits.
        search: searches for drift in a model's recent predictions, and puts the result on record.
        clock: the time, in UTC.
    """

    def __init__(
        self,
        engine: Engine,
        settings: LoopSettings,
        search: Callable[[Dataset, Engine], object],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._search = search
        self._clock = clock
        self._retraining = Schedule(settings.LOOP_SCHEDULE, clock())
        self._drift = Schedule(settings.LOOP_DRIFT_SCHEDULE, clock())
        self._told: dict[tuple[str, Trigger], str] = {}

    @classmethod
    def from_environment(cls, engine: Engine, environment: Mapping[str, str]) -> "Triggers":
        """With the settings of the environment.

        Raises:
            StartupError: names each variable that does not parse.
        """
        from loop.drift import search

        return cls(engine, LoopSettings.from_environment(environment), search)

    def __call__(self) -> None:
        """Look once.

        Raises:
            sqlalchemy.exc.DBAPIError: the database is away.
        """
        now = self._clock()
        if self._drift.due(now):
            for dataset in DATASETS.values():
                try:
                    self._search(dataset, self._engine)
                except BundleError as error:
                    log.warning("%s: drift cannot be searched for: %s", dataset.name, error)
        if self._retraining.due(now):
            for name in DATASETS:
                self._ask(name, Trigger.SCHEDULE, self._settings.LOOP_SCHEDULE)
        for name, what in self._drifted():
            self._ask(name, Trigger.DRIFT, what)
        for name, what in self._worsened():
            self._ask(name, Trigger.QUALITY, what)

    def _ask(self, name: str, trigger: Trigger, what: str) -> None:
        try:
            job, new = jobs.request(self._engine, name, trigger, what, self._settings.limits)
        except NotNow as error:
            # Log it once, not twice a minute.
            if self._told.get((name, trigger)) != what:
                log.info("%s: not retrained for %s (%s): %s", name, trigger, what, error)
                self._told[name, trigger] = what
        else:
            self._told.pop((name, trigger), None)
            if new:
                log.info("%s: job %d, for %s (%s).", name, job.id, trigger, what)

    def _drifted(self) -> Iterator[tuple[str, str]]:
        """Models whose newest search has found drift, since they were last retrained."""
        for found in drift.newest(self._engine):
            if found.model in DATASETS and found.verdict == Verdict.DRIFT and self._is_news(found.model, found.time_us):
                yield found.model, f"drift of {found.version}"

    def _worsened(self) -> Iterator[tuple[str, str]]:
        """Models whose live quality is worse than their card's test split says."""
        measured = {(one.model, one.version): one for one in quality.read(self._engine, MINIMUM_LABELS)}
        if not measured:
            return
        drop = params.load().retraining.quality_drop
        for name, dataset in DATASETS.items():
            try:
                version, artifact = deployed_model(dataset)
            except BundleError as error:
                log.warning("%s: live quality cannot be compared: %s", name, error)
                continue
            found = measured.get((name, version))
            window = found.windows.get(WINDOW) if found is not None else None
            if window is None or not window.metrics or not self._is_news(name, window.newest_us):
                continue
            metric = "rmse" if dataset.task is Task.REGRESSION else "accuracy"
            live, tested = window.metrics[metric], artifact.card.metrics.get(metric)
            if tested is None:
                continue
            if dataset.task is Task.REGRESSION:
                worse = live > tested * (1 + drop.regression)
            else:
                worse = live < tested - drop.classification
            if worse:
                yield name, f"{metric} {live:.3g}, tested {tested:.3g}"

    def _is_news(self, name: str, time_us: int) -> bool:
        last = jobs.newest(self._engine, model=name, limit=1)
        return not last or last[0].created_us < time_us
