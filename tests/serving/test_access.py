"""The gate: which key opens what, wrong keys, addresses of clients."""

import base64
from itertools import product
from pathlib import Path

import pytest

from serving.access import ATTEMPT_SECONDS, ATTEMPTS, MAXIMUM_CLIENTS, Access, AccessReason, Gate, Proxies, WrongKeys
from serving.errors import TooManyAttempts
from serving.keys import Key, Keys, Ring, digest, new_key
from tests.serving.locked import KEYS


class Clock:
    """Seconds, which pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def gate(*rings: Ring, clock: Clock | None = None) -> Gate:
    """A gate with one key on each of these rings."""
    return Gate(Keys({ring: (Key(digest(KEYS[ring].encode())),) for ring in rings}, {}), clock or Clock())


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


def reason(gate: Gate, access: Access, header: bytes | None, *, reads: bool = False) -> AccessReason | None:
    refusal = gate.refusal(access, header, reads=reads)
    return refusal.reason if refusal is not None else None


A, D, M = Ring.API, Ring.ADMIN, Ring.METRICS
OPENED_BY: dict[tuple[Ring, ...], dict[Access, set[Ring] | None]] = {
    # By the rings that have keys: what opens each kind of route; None: it is open to all.
    (): {Access.API: None, Access.LEDGER: None, Access.METRICS: None, Access.ADMIN: set()},
    (A,): {Access.API: {A}, Access.LEDGER: {A}, Access.METRICS: {A}, Access.ADMIN: set()},
    (D,): {Access.API: None, Access.LEDGER: {D}, Access.METRICS: None, Access.ADMIN: {D}},
    (M,): {Access.API: None, Access.LEDGER: None, Access.METRICS: {M}, Access.ADMIN: set()},
    (A, D): {Access.API: {A, D}, Access.LEDGER: {A, D}, Access.METRICS: {A, D}, Access.ADMIN: {D}},
    (A, M): {Access.API: {A}, Access.LEDGER: {A}, Access.METRICS: {M}, Access.ADMIN: set()},
    (D, M): {Access.API: None, Access.LEDGER: {D}, Access.METRICS: {D, M}, Access.ADMIN: {D}},
    (A, D, M): {Access.API: {A, D}, Access.LEDGER: {A, D}, Access.METRICS: {D, M}, Access.ADMIN: {D}},
}


@pytest.mark.parametrize(("rings", "access"), list(product(OPENED_BY, Access)))
def test_which_key_opens_what(rings: tuple[Ring, ...], access: Access) -> None:
    opened_by = None if access is Access.PUBLIC else OPENED_BY[rings][access]
    made = gate(*rings)
    assert made.needs_key(access) is (opened_by is not None)
    no_admin_keys = access is Access.ADMIN and not opened_by
    without = None if opened_by is None else AccessReason.FORBIDDEN if no_admin_keys else AccessReason.MISSING
    assert reason(made, access, None) is without
    for ring in rings:
        wrong = None if opened_by is None or ring in opened_by else AccessReason.FORBIDDEN
        assert reason(made, access, bearer(KEYS[ring])) is wrong
    unknown = None if opened_by is None else AccessReason.FORBIDDEN if no_admin_keys else AccessReason.UNKNOWN
    assert reason(made, access, bearer(new_key())) is unknown


def test_a_refusal_says_what_to_do() -> None:
    refusal = gate(A).refusal(Access.ADMIN, bearer(KEYS[A]))
    assert refusal is not None
    assert "no ADMIN_KEYS" in str(refusal.error)
    refusal = gate(A, D).refusal(Access.ADMIN, bearer(KEYS[A]))
    assert refusal is not None
    assert str(refusal.error) == "This key does not open this; one of ADMIN_KEYS does."


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (bearer(KEYS[A]), None),
        (f"bearer   {KEYS[A]} ".encode(), None),
        (f"BEARER {KEYS[A]}".encode(), None),
        (KEYS[A].encode(), AccessReason.MALFORMED),
        (b"", AccessReason.MALFORMED),
        (b"Bearer", AccessReason.MALFORMED),
        (b"Bearer ", AccessReason.MALFORMED),
        (f"Token {KEYS[A]}".encode(), AccessReason.MALFORMED),
        (b"Bearer " + b"a" * 600, AccessReason.MALFORMED),
        (f"Bearer {KEYS[A]}, Bearer {KEYS[A]}".encode(), AccessReason.UNKNOWN),
        (f"Bearer {KEYS[A][:-1]}".encode(), AccessReason.UNKNOWN),
        (f"Bearer {KEYS[A].swapcase()}".encode(), AccessReason.UNKNOWN),
        (f"Bearer {digest(KEYS[A].encode()).hex()}".encode(), AccessReason.UNKNOWN),
        (b"Bearer \xff\xfe\x00", AccessReason.UNKNOWN),
    ],
)
def test_only_the_key_itself_is_taken(header: bytes, expected: AccessReason | None) -> None:
    made = gate(A)
    for _ in range(2):  # the second time, right ones are known by heart
        assert reason(made, Access.API, header) is expected


@pytest.mark.parametrize("user", ["", "anybody", "key"])
def test_a_browser_may_send_the_key_as_a_password_where_it_only_reads(user: str) -> None:
    made = gate(A)
    header = b"Basic " + base64.b64encode(f"{user}:{KEYS[A]}".encode())
    assert reason(made, Access.API, header, reads=True) is None
    assert reason(made, Access.API, header) is AccessReason.MALFORMED
    assert reason(made, Access.ADMIN, header, reads=True) is AccessReason.FORBIDDEN


@pytest.mark.parametrize("credentials", [b"", b"???", b"YQ", base64.b64encode(KEYS[A].encode()), b"\xff" * 20])
def test_malformed_basic_credentials_are_refused(credentials: bytes) -> None:
    assert reason(gate(A), Access.API, b"Basic " + credentials, reads=True) is AccessReason.MALFORMED


def test_a_revoked_key_is_refused_and_a_new_one_taken_within_a_second(tmp_path: Path) -> None:
    former, new = new_key(), new_key()
    file = tmp_path / "keys"
    file.write_text(digest(former.encode()).hex())
    clock = Clock()
    made = Gate(Keys({}, {A: file}), clock)
    assert reason(made, Access.API, bearer(former)) is None
    file.write_text(digest(new.encode()).hex())
    clock.now += 1
    assert reason(made, Access.API, bearer(former)) is AccessReason.UNKNOWN
    assert reason(made, Access.API, bearer(new)) is None


def attempt(gate: Gate, client: str, key: str) -> str:
    """What a call with this key is told: the name of the error, or nothing."""
    refusal = gate.refusal(Access.API, bearer(key))
    return "" if refusal is None else type(gate.count(refusal, client, "http")).__name__


def test_a_client_with_many_wrong_keys_waits_and_right_keys_pass(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    made = gate(A, clock=clock)
    told = [attempt(made, "192.0.2.1", new_key()) for _ in range(ATTEMPTS + 2)]
    assert told == ["Unauthenticated"] * ATTEMPTS + ["TooManyAttempts"] * 2
    (record,) = caplog.records
    assert (record.getMessage(), vars(record)["client"]) == ("too many wrong keys", "192.0.2.1")
    # Behind the same address, and elsewhere.
    assert attempt(made, "192.0.2.1", KEYS[A]) == ""
    assert attempt(made, "192.0.2.2", new_key()) == "Unauthenticated"
    refusal = made.refusal(Access.API, bearer(new_key()))
    assert refusal is not None
    clock.now += 20.5
    error = made.count(refusal, "192.0.2.1", "http")
    assert isinstance(error, TooManyAttempts)
    assert (error.status, error.retry_after) == (429, 40)
    clock.now += 40
    assert attempt(made, "192.0.2.1", new_key()) == "Unauthenticated"


@pytest.mark.parametrize("header", [None, b"Bearer", bearer(KEYS[M])], ids=["none", "malformed", "of another ring"])
def test_only_wrong_keys_are_attempts(header: bytes | None) -> None:
    made = gate(A, M)
    for _ in range(3 * ATTEMPTS):
        refusal = made.refusal(Access.API, header)
        assert refusal is not None
        assert made.count(refusal, "192.0.2.1", "http").status in {401, 403}


def test_an_ipv6_client_is_its_network() -> None:
    wrong = WrongKeys(Clock())
    waits = [wrong.add(f"2001:db8:1:2::{number:x}") for number in range(ATTEMPTS + 1)]
    assert [bool(seconds) for seconds in waits] == [False] * ATTEMPTS + [True]
    assert not wrong.add("2001:db8:1:3::1")


def test_clients_are_counted_in_bounded_memory() -> None:
    clock = Clock()
    wrong = WrongKeys(clock)
    for _ in range(ATTEMPTS + 1):
        wrong.add("192.0.2.1")
    for number in range(3 * MAXIMUM_CLIENTS):
        wrong.add(f"client {number}")
    assert len(wrong._clients) == MAXIMUM_CLIENTS
    # Crowded out; whoever is still known goes on to be counted.
    assert not wrong.add("192.0.2.1")
    last = f"client {3 * MAXIMUM_CLIENTS - 1}"
    assert [bool(wrong.add(last)) for _ in range(ATTEMPTS)] == [False] * (ATTEMPTS - 1) + [True]
    clock.now += ATTEMPT_SECONDS
    assert not wrong.add(last)


@pytest.mark.parametrize(
    ("trusted", "peer", "forwarded", "client"),
    [
        ("", "10.0.0.1", ["192.0.2.1"], "10.0.0.1"),
        ("10.0.0.0/8", "192.0.2.7", ["192.0.2.1"], "192.0.2.7"),
        ("10.0.0.0/8", "10.0.0.1", ["192.0.2.1"], "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.0/8", "10.0.0.1", [""], "10.0.0.1"),
        # What a client says of itself stands before what the proxy saw.
        ("10.0.0.0/8", "10.0.0.1", ["198.51.100.1, 192.0.2.1"], "192.0.2.1"),
        ("10.0.0.0/8, ::1", "::1", ["198.51.100.1", "192.0.2.1, 10.1.1.1"], "192.0.2.1"),
        ("10.0.0.0/8", "10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("*", "10.0.0.1", ["192.0.2.1, 192.0.2.2"], "192.0.2.1"),
        ("10.0.0.1", "", ["192.0.2.1"], ""),
    ],
)
def test_a_proxy_is_believed_where_the_setting_says_so(
    trusted: str, peer: str, forwarded: list[str], client: str
) -> None:
    assert Proxies(trusted).client(peer, forwarded) == client
