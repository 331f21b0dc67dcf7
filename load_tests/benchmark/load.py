"""What a load generator measured in one go."""

from pydantic import BaseModel, ConfigDict


class Load(BaseModel):
    """One measure of a closed loop: each connection sends its next request when it has the answer.

    ``requests`` counts answers of any status in ``seconds``; ``refused`` those that were no success; the errors are of
    connections. Latencies are in milliseconds.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    refused: int
    connect_errors: int = 0
    read_errors: int = 0
    write_errors: int = 0
    timeouts: int = 0

    @property
    def problem(self) -> str:
        """Why the figures are no measure of the server, empty if they are."""
        counted = {
            "no answer at all": int(self.requests == 0),
            f"of {self.requests} answers were no success": self.refused,
            "connections refused": self.connect_errors,
            "broken reads": self.read_errors,
            "broken writes": self.write_errors,
            "time-outs": self.timeouts,
        }
        return "; ".join(f"{count} {what}" for what, count in counted.items() if count)
