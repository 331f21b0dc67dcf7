"""One run of Locust: the load (by default the profile's), the requests, the figures, and the check of the limits."""

import gc
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import locust.log
from locust.env import Environment
from locust.runners import LocalRunner
from locust.stats import StatsEntry

from contract import DATASETS
from load_tests.arrivals import Arrivals, Process
from load_tests.errors import ONE_PROCESS, LoadTestError
from load_tests.shapes import Shape
from load_tests.summary import Figures, Summary
from load_tests.thresholds import Load, Profile, Thresholds
from load_tests.traffic import Traffic
from load_tests.users import LoadUser

BAD_SHARE = 0.02
VARIATION = 3.0
"""Default coefficient of variation of gamma arrivals; above 1 they come in bursts."""


class LoadTest:
    """A run, from Locust's options to its exit status.

    Args:
        environment: Locust's; options that were not given are set to those of the shape's profile.
        user_classes: those that limits may be given for, in the order in which they are told.

    Raises:
        LoadTestError: an option or a file will not do.
    """

    def __init__(self, environment: Environment, user_classes: Sequence[type[LoadUser]]) -> None:
        if not isinstance(environment.runner, LocalRunner):
            raise LoadTestError(ONE_PROCESS)
        self._environment = environment
        options: Any = environment.parsed_options
        self._options = options
        self._summary: Summary | None = None
        self._started_at: datetime | None = None
        self._user_classes = [user_class for user_class in user_classes if user_class in environment.user_classes]
        thresholds = Thresholds.read(options.thresholds, [user_class.__name__ for user_class in user_classes])
        profile = thresholds.profile(Shape(options.shape))
        self._set_load(profile.load)
        self._profile = None if options.no_thresholds else self._checked(profile)
        traffic = {name: Traffic.read(dataset, options.features, options.seed) for name, dataset in DATASETS.items()}
        for user_class in self._user_classes:
            user_class.prepare(traffic)
        # Collecting garbage in the large heap of Locust and its imports would stall every user.
        gc.collect()
        gc.freeze()

    def start(self, **_: Any) -> None:
        """Restart the arrivals of every class, on ``test_start``."""
        options = self._options
        for number, user_class in enumerate(self._user_classes):
            user_class.bad_share = options.bad_share
            user_class.arrivals = Arrivals(
                Process(options.arrivals), options.rate / options.num_users, options.variation, options.seed + number
            )
        self._started_at = datetime.now(UTC)

    def finish(self, **_: Any) -> None:
        """Check the limits and write the summary, on ``quitting``."""
        if self._started_at is None:
            return
        stats = self._environment.stats
        exceptions = self._environment.runner.exceptions.values() if self._environment.runner else ()
        figures = {user_class.__name__: self._figures(user_class) for user_class in self._user_classes}
        errors = {f"{error.name}: {error.error}": error.occurrences for error in stats.errors.values()}
        errors |= {f"exception in a user: {raised['msg']}": raised["count"] for raised in exceptions}
        breaches = None
        if self._profile is not None:
            breaches = self._profile.breaches(figures)
            breaches += [f"{raised['count']} × exception in a user: {raised['msg']}" for raised in exceptions]
            # After an error in one of our listeners, keep Locust's exit status 2.
            if not locust.log.unhandled_greenlet_exception:
                self._environment.process_exit_code = 1 if breaches else 0
        self._summary = Summary(
            started_at=self._started_at,
            shape=self._options.shape,
            load=str(self._load()),
            seconds=round((stats.last_request_timestamp or 0) - stats.start_time, 1) if stats.num_requests else 0,
            users=figures,
            errors=errors,
            breaches=breaches,
        )
        self._summary.write(self._options.summary)

    def tell(self, **_: Any) -> None:
        """Print the summary below Locust's own, on ``quit``."""
        if self._summary is not None:
            sys.stdout.write(f"\n{self._summary.table()}\n")

    def _set_load(self, load: Load) -> None:
        for name, value in {
            "num_users": load.users,
            "rate": load.rate,
            "arrivals": load.arrivals.value,
            "run_time": load.run_seconds,
        }.items():
            if getattr(self._options, name) is None:
                setattr(self._options, name, value)
        if self._options.num_users < 1 or self._options.rate <= 0 or self._options.variation <= 0:
            raise LoadTestError("--users, --rate and --variation must be more than 0.")

    def _checked(self, profile: Profile) -> Profile:
        """The profile, if its limits apply to the load of this run."""
        options = self._options
        changed = [
            name for name in ("config_users", "user_classes", "tags", "exclude_tags") if getattr(options, name, None)
        ]
        changed += [
            name
            for name, value in {"bad_share": BAD_SHARE, "variation": VARIATION}.items()
            if getattr(options, name) != value
        ]
        if not self._load().same_pressure(profile.load) or changed:
            other = f"with {', '.join(changed)}" if changed else str(self._load())
            raise LoadTestError(
                f"The limits in {options.thresholds} for {options.shape} are about {profile.load}; this run has a load "
                f"of its own ({other}). Add --no-thresholds, or name a file for it with --thresholds."
            )
        return profile

    def _load(self) -> Load:
        options = self._options
        return Load(
            users=options.num_users, rate=options.rate, arrivals=options.arrivals, run_seconds=max(1, options.run_time)
        )

    def _figures(self, user_class: type[LoadUser]) -> Figures:
        stats = self._environment.stats
        entry = StatsEntry(stats, user_class.__name__, "")
        for one in stats.entries.values():
            if one.name.partition(" ")[0] == user_class.__name__:
                entry.extend(one)
        lateness = user_class.arrivals.lateness
        return Figures(
            requests=entry.num_requests,
            failures=entry.num_failures,
            failure_rate=entry.fail_ratio,
            p50_ms=entry.get_response_time_percentile(0.5),
            p95_ms=entry.get_response_time_percentile(0.95),
            p99_ms=entry.get_response_time_percentile(0.99),
            requests_per_second=round(entry.total_rps, 2),
            late_share=lateness.late / max(1, lateness.arrivals),
            longest_late_ms=round(lateness.longest_seconds * 1000, 1),
        )
