"""Who may call what: each call shows a key, over HTTP and gRPC alike.

A right key always passes. Wrong keys are counted for each client address, and after too many they are refused for a
while. Clients behind one proxy share an address: a wrong key of one does not lock the others out.
"""

import base64
import binascii
import ipaddress
import logging
import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from itertools import product
from time import monotonic
from typing import NamedTuple

from contract.errors import BundleError
from serving.errors import PermissionDenied, TooManyAttempts, Unauthenticated
from serving.keys import Holder, Keys, Ring
from serving.telemetry import series

logger = logging.getLogger(__name__)

HEADER = "authorization"
"""Name of the HTTP header and of the gRPC metadata that has the key: ``Bearer <key>``."""
REREAD_SECONDS = 1.0
"""Seconds between two looks at the files of keys, while calls come."""
MAXIMUM_HEADER = 512
"""A longer header holds no key, and is not hashed."""
MAXIMUM_VERDICTS = 4096
"""Maximum header values in the cache. It holds right keys only, so that wrong ones cannot push them out."""
ATTEMPTS, ATTEMPT_SECONDS = 10, 60.0
"""Wrong keys that one client may send in this time; after that, 429."""
MAXIMUM_CLIENTS = 10_000
"""Maximum clients whose wrong keys are counted; a new one replaces the oldest."""


class Access(StrEnum):
    """What a route asks of its callers. Without keys in the settings, all but admin routes are open."""

    PUBLIC = "public"
    """Nothing: the probes."""
    API = "api"
    """An API or admin key, if there are API keys."""
    LEDGER = "ledger"
    """An API or admin key, if there are keys of either kind: what was predicted, and what came true."""
    METRICS = "metrics"
    """A metrics or admin key, if there are metrics keys; else as ``API``."""
    ADMIN = "admin"
    """An admin key, always."""


class AccessReason(StrEnum):
    """Why a call is refused, as metrics have it."""

    MISSING = "missing"
    MALFORMED = "malformed"
    UNKNOWN = "unknown"
    FORBIDDEN = "forbidden"
    LIMITED = "limited"


class Refusal(NamedTuple):
    """Why a caller may not pass, and what it is told."""

    reason: AccessReason
    error: BundleError


_MISSING = "This needs a key: send `Authorization: Bearer <key>`."
_MALFORMED = "The Authorization is not `Bearer <key>`."
_BASIC = "A password opens pages, which are only read. For this, press Authorize or send `Authorization: Bearer <key>`."
_UNKNOWN = "This key is not known, or not any more."
_NO_ADMIN_KEYS = (
    "Admin routes are closed: the service has no ADMIN_KEYS. `python -m serving.keys new --for admin` makes a key."
)


class _Verdict(NamedTuple):
    """What a right key opens."""

    opens: frozenset[Access]
    holder: Holder
    basic: bool


class Gate:
    """Decides who may pass. All calls of a worker go by one gate, on its event loop.

    Args:
        keys: the keys that are taken.
        clock: seconds, from any time on.
    """

    def __init__(self, keys: Keys, clock: Callable[[], float] = monotonic) -> None:
        self._keys = keys
        self._clock = clock
        self._opened_by = _opened_by(keys.rings)
        self._verdicts: dict[bytes, _Verdict] = {}
        self._look_at = clock() + REREAD_SECONDS if keys.in_files else math.inf
        self._attempts = WrongKeys(clock)
        self._told_at = -math.inf
        if keys.rings:
            for protocol, reason in product(("http", "v2", "grpc"), AccessReason):
                # The series start at 0, so that a rate counts the first refusal too.
                series.ACCESS_REFUSED.labels(protocol, reason.value)

    def needs_key(self, access: Access) -> bool:
        """Whether routes of this kind refuse anybody. It never changes."""
        return access in self._opened_by

    def refusal(self, access: Access, header: bytes | None, *, reads: bool = False) -> Refusal | None:
        """Why a caller may not pass; None if it may.

        Args:
            access: of the route.
            header: its ``Authorization``; None if it sent none.
            reads: it only reads, so that Basic authorization is taken: browsers ask people for it. They also send it
                along when another site's page makes them, so it must not change anything.
        """
        opened_by = self._opened_by.get(access)
        if opened_by is None:
            return None
        if self._clock() >= self._look_at:
            self._look()
        if not opened_by:
            return Refusal(AccessReason.FORBIDDEN, PermissionDenied(_NO_ADMIN_KEYS))
        if header is None:
            return Refusal(AccessReason.MISSING, Unauthenticated(_MISSING))
        verdict = self._verdicts.get(header) or self._examine(header)
        if isinstance(verdict, Refusal):
            return verdict
        if verdict.basic and not reads:
            return Refusal(AccessReason.MALFORMED, Unauthenticated(_BASIC))
        if access not in verdict.opens:
            wanted = " or ".join(sorted(ring.value for ring in opened_by))
            return Refusal(
                AccessReason.FORBIDDEN, PermissionDenied(f"This key does not open this; one of {wanted} does.")
            )
        return None

    def count(self, refusal: Refusal, client: str, protocol: str) -> BundleError:
        """Count a refusal, and return what the caller is told: after too many wrong keys 429 instead of 401.

        Args:
            refusal: why.
            client: its address.
            protocol: how it called, for metrics.
        """
        reason, error = refusal
        if reason is AccessReason.UNKNOWN:
            seconds = self._attempts.add(client)
            if seconds:
                reason = AccessReason.LIMITED
                error = TooManyAttempts(f"Too many wrong keys came from here. Try again in {seconds} seconds.", seconds)
                self._tell(client, protocol)
        series.ACCESS_REFUSED.labels(protocol, reason.value).inc()
        return error

    def holder(self, header: bytes) -> Holder | None:
        """The holder of the key in this ``Authorization``; None if the key is not known."""
        verdict = self._verdicts.get(header) or self._examine(header)
        return None if isinstance(verdict, Refusal) else verdict.holder

    def _examine(self, header: bytes) -> _Verdict | Refusal:
        scheme, _, rest = header[:MAXIMUM_HEADER].partition(b" ")
        basic = scheme.lower() == b"basic"
        key = _password(rest.strip()) if basic else rest.strip()
        if len(header) > MAXIMUM_HEADER or not key or not (basic or scheme.lower() == b"bearer"):
            return Refusal(AccessReason.MALFORMED, Unauthenticated(_MALFORMED))
        holder = self._keys.holder(key)
        if holder is None:
            return Refusal(AccessReason.UNKNOWN, Unauthenticated(_UNKNOWN))
        opens = frozenset(access for access, rings in self._opened_by.items() if rings & holder.rings)
        if len(self._verdicts) >= MAXIMUM_VERDICTS:
            self._verdicts.clear()
        verdict = self._verdicts[header] = _Verdict(opens, holder, basic)
        return verdict

    def _look(self) -> None:
        self._look_at = self._clock() + REREAD_SECONDS
        if self._keys.reread():
            self._verdicts.clear()

    def _tell(self, client: str, protocol: str) -> None:
        now = self._clock()
        if now - self._told_at >= 1:
            self._told_at = now
            logger.warning("too many wrong keys", extra={"client": client, "protocol": protocol})


def _opened_by(rings: frozenset[Ring]) -> dict[Access, frozenset[Ring]]:
    """The keys that open each kind of route; without those that are open to all."""
    found = {Access.ADMIN: frozenset({Ring.ADMIN} & rings)}
    if Ring.API in rings:
        found[Access.API] = found[Access.METRICS] = frozenset({Ring.API, Ring.ADMIN})
    if rings & {Ring.API, Ring.ADMIN}:
        found[Access.LEDGER] = frozenset({Ring.API, Ring.ADMIN})
    if Ring.METRICS in rings:
        found[Access.METRICS] = frozenset({Ring.METRICS, Ring.ADMIN})
    return found


def _password(credentials: bytes) -> bytes:
    """The password of Basic credentials, which is the key; "" if they are malformed. The user may have any name."""
    try:
        return base64.b64decode(credentials, validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


class WrongKeys:
    """Counts the wrong keys of each client, over at most ``MAXIMUM_CLIENTS``.

    Args:
        clock: seconds, from any time on.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # Ordered by the start of their time, so that the first ends next.
        self._clients: dict[str, tuple[float, int]] = {}

    def add(self, client: str) -> int:
        """Count one more, and return the seconds that the client has to wait; 0 while it may try again."""
        now = self._clock()
        client = _network(client)
        ends, count = self._clients.get(client, (now, 0))
        if ends <= now:
            self._clients.pop(client, None)
            ends, count = now + ATTEMPT_SECONDS, 0
            if len(self._clients) >= MAXIMUM_CLIENTS:
                del self._clients[next(iter(self._clients))]
        self._clients[client] = ends, count + 1
        return math.ceil(ends - now) if count >= ATTEMPTS else 0


def _network(client: str) -> str:
    """An IPv6 address becomes its /64 network: one client has all addresses of it."""
    if ":" not in client:
        return client
    try:
        return str(ipaddress.IPv6Network((client.partition("%")[0], 64), strict=False))
    except ValueError:
        return client


class Proxies:
    """The proxies whose ``X-Forwarded-For`` is believed.

    Args:
        text: ``FORWARDED_ALLOW_IPS``.
    """

    def __init__(self, text: str) -> None:
        words = [word.strip() for word in text.split(",") if word.strip()]
        self._all = "*" in words
        self._networks = [ipaddress.ip_network(word) for word in words if word != "*"]

    def client(self, peer: str, forwarded: Iterable[str]) -> str:
        """The address of a client: the last one that no proxy of ours has.

        Args:
            peer: the address of the connection.
            forwarded: the values of ``X-Forwarded-For``, in their order; the last hop is the last.
        """
        client = peer
        for hop in reversed([hop.strip() for value in forwarded for hop in value.split(",")]):
            if not self._trusts(client) or not hop:
                break
            client = hop
        return client

    def _trusts(self, address: str) -> bool:
        if self._all:
            return True
        try:
            found = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)
