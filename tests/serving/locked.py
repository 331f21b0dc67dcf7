"""Keys of the tests, and the settings that take them."""

from collections.abc import Mapping
from itertools import count

from local_service import free_port
from serving.keys import Ring, digest
from serving.settings import Settings

# Fixed, since keys are in the names of tests, and each test process must find the same tests.
KEYS: Mapping[Ring, str] = {ring: f"mlpb_{ring.name:x<43}" for ring in Ring}
NOBODYS = f"mlpb_{'nobody':x<43}"
"""A key that no ring has."""
HASHES: Mapping[Ring, str] = {ring: digest(key.encode()).hex() for ring, key in KEYS.items()}
_CLIENTS = count(1)


def settings_with_keys(*rings: Ring) -> Settings:
    """Settings of a worker with keys on these rings, or on all, that believes what this machine says of its clients."""
    given = {ring.value: HASHES[ring] for ring in rings or Ring}
    ports = {"API_PORT": str(free_port()), "GRPC_PORT": str(free_port())}
    common = {"API_HOST": "127.0.0.1", "FORWARDED_ALLOW_IPS": "127.0.0.1", "LEDGER": "off"}
    return Settings.from_environment({**common, **ports, **given})


def headers(key: str) -> dict[str, str]:
    """Of a request with this key, from an address of its own: wrong keys are counted by address."""
    number = next(_CLIENTS)
    return {"authorization": f"Bearer {key}", "x-forwarded-for": f"192.0.{number >> 8}.{number & 255}"}
