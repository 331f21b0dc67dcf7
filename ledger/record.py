"""The records of the ledger: answered predictions, and counts of requests that were refused or failed."""

from dataclasses import dataclass
from typing import Self

from contract.table import FloatMatrix
from ledger.values import columns_of, pack, unpack


class Record:
    """One answered prediction: one call, with one row or many.

    Its values are kept as bytes (``ledger.values``), as the spool and the database have them: a matrix is made only on
    request. That halves the drainer's time for a record.

    Args:
        id: a UUIDv7 as 32 hexadecimal digits. A row of a batch is ``id`` and its index.
        request_id: the identifier of the request, as in its answer and in the log.
        time_us: when it was answered, in microseconds since 1970, UTC.
        model, version: what answered.
        protocol: ``http``, ``v2`` or ``grpc``.
        milliseconds: from the arrival of the call to its prediction.
        rows: ``[N, F]``, the features in the order of the contract; None where ``LEDGER_FEATURES`` is off.
        outputs: ``[N, K]``: the prediction (K = 1), or the probability of each class (K = C).

    Attributes:
        count: N.
        feature_bytes: ``rows`` as bytes, or None.
        output_bytes: ``outputs`` as bytes.
    """

    __slots__ = (
        "count",
        "feature_bytes",
        "id",
        "milliseconds",
        "model",
        "output_bytes",
        "protocol",
        "request_id",
        "time_us",
        "version",
    )

    def __init__(
        self,
        id: str,  # noqa: A002 - its name everywhere
        request_id: str,
        time_us: int,
        model: str,
        version: str,
        protocol: str,
        milliseconds: float,
        rows: FloatMatrix | None,
        outputs: FloatMatrix,
    ) -> None:
        self.id = id
        self.request_id = request_id
        self.time_us = time_us
        self.model = model
        self.version = version
        self.protocol = protocol
        self.milliseconds = milliseconds
        self.count = len(outputs)
        self.feature_bytes = None if rows is None else pack(rows)
        self.output_bytes = pack(outputs)

    @classmethod
    def of_bytes(
        cls,
        identity: tuple[str, str, int, str, str, str, float],
        count: int,
        feature_bytes: bytes | None,
        output_bytes: bytes,
    ) -> Self:
        """A record whose values are bytes already; ``identity`` is id to milliseconds, as above."""
        record = cls.__new__(cls)
        (
            record.id,
            record.request_id,
            record.time_us,
            record.model,
            record.version,
            record.protocol,
            record.milliseconds,
        ) = identity
        record.count = count
        record.feature_bytes = feature_bytes
        record.output_bytes = output_bytes
        return record

    @property
    def rows(self) -> FloatMatrix | None:
        """``[N, F]``, or None."""
        content = self.feature_bytes
        return None if content is None else unpack(content, columns_of(content, self.count))

    @property
    def outputs(self) -> FloatMatrix:
        """``[N, K]``."""
        return unpack(self.output_bytes, columns_of(self.output_bytes, self.count))


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """Requests of one minute that were refused or failed.

    Args:
        minute: minutes since 1970, UTC.
        model: what was asked; "" for a request that is not about a model that is served.
        protocol: ``http``, ``v2`` or ``grpc``.
        status: of HTTP; for gRPC, the one that HTTP would have.
        requests: how many.
    """

    minute: int
    model: str
    protocol: str
    status: int
    requests: int
