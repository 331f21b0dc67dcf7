from pathlib import Path

import pytest
from pydantic import ValidationError

from contract.errors import StartupError
from serving.settings import Settings


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    settings = Settings.from_environment({})
    assert (settings.API_PORT, settings.WORKERS, settings.LOG_LEVEL) == (8000, None, "INFO")


def test_the_environment_is_read_and_what_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    settings = Settings.from_environment(
        {"API_PORT": "9000", "WORKERS": "3", "LOG_LEVEL": "debug", "MODELS_DIR": str(tmp_path), "PATH": "/usr/bin"}
    )
    assert settings.API_PORT == 9000
    assert settings.WORKERS == 3
    assert settings.LOG_LEVEL == "DEBUG"
    assert tmp_path == settings.MODELS_DIR


def test_an_empty_variable_counts_as_unset() -> None:
    assert Settings.from_environment({"API_PORT": ""}).API_PORT == 8000


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("API_PORT", "http"),
        ("API_PORT", "0"),
        ("API_PORT", "70000"),
        ("API_PORT", "80.5"),
        ("WORKERS", "0"),
        ("WORKERS", "many"),
        ("LOG_LEVEL", "LOUD"),
        ("MAX_BATCH_SIZE", "0"),
        ("MAX_LATENCY_MS", "-1"),
        ("MAX_LATENCY_MS", "nan"),
        ("MAX_BODY_BYTES", "12"),
        ("TIMEOUT_SECONDS", "soon"),
        ("HTTP_KEEP_ALIVE_SECONDS", "0"),
        ("HTTP_KEEP_ALIVE_SECONDS", "for ever"),
        ("HTTP_MAX_HEADER_BYTES", "1"),
        ("HTTP_MAX_HEADERS", "0"),
        ("HTTP_HEADER_SECONDS", "0"),
        ("HTTP_MAX_CONNECTIONS", "0"),
        ("MAX_RECEIVING_BYTES", "1000"),
        ("CORS_ORIGINS", "app.example.com"),
        ("CORS_ORIGINS", "https://app.example.com/"),
        ("API_HOST", "host.invalid"),
        ("API_HOST", "127.0.0.1:8000"),
        ("API_HOST", "a" * 70),
    ],
)
def test_what_does_not_parse_is_refused_with_variable_and_text(variable: str, text: str) -> None:
    with pytest.raises(StartupError, match=f"{variable}='{text}'.*Correct or unset it"):
        Settings.from_environment({variable: text})


@pytest.mark.parametrize(
    ("host", "address"),
    [("localhost", "127.0.0.1"), ("LOCALHOST", "127.0.0.1"), ("10.1.2.3", "10.1.2.3"), ("::", "::"), ("0:0::1", "::1")],
)
def test_a_host_is_an_address_or_a_name_that_has_one(host: str, address: str) -> None:
    assert address == Settings.from_environment({"API_HOST": host}).API_HOST


def test_every_wrong_variable_is_named() -> None:
    with pytest.raises(StartupError, match=r"API_PORT.*WORKERS"):
        Settings.from_environment({"API_PORT": "x", "WORKERS": "y"})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Settings.from_environment({}), "API_PORT", 1)  # noqa: B010 - mypy refuses the plain assignment


@pytest.mark.parametrize("text", ["mysql://user:secret@host/name", "secret"])
def test_a_wrong_database_url_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(StartupError, match=r"DATABASE_URL.*sqlite:///") as refused:
        Settings.from_environment({"DATABASE_URL": text})
    assert "secret" not in str(refused.value)


def test_the_password_of_the_database_is_not_shown_with_the_settings() -> None:
    url = "postgresql://user:secret@host/name"
    settings = Settings.from_environment({"DATABASE_URL": url})
    assert settings.database_url == url
    assert "secret" not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("variable", "text"),
    [("LEDGER", "maybe"), ("LEDGER_FEATURES", "1"), ("LEDGER_SPOOL_BYTES", "1000"), ("LEDGER_KEEP_DAYS", "0")],
)
def test_the_settings_of_the_ledger_are_checked(variable: str, text: str) -> None:
    with pytest.raises(StartupError, match=f"{variable}.*Correct or unset it"):
        Settings.from_environment({variable: text})


def test_origins_are_read_as_a_list() -> None:
    origins = "https://app.example.com, http://[::1]:3000"
    assert tuple(origins.split(", ")) == Settings.from_environment({"CORS_ORIGINS": origins}).CORS_ORIGINS
    assert Settings.from_environment({"CORS_ORIGINS": "*"}).CORS_ORIGINS == ("*",)
    assert Settings.from_environment({}).CORS_ORIGINS is None


def test_a_body_of_the_largest_size_must_fit_into_what_a_worker_receives() -> None:
    with pytest.raises(StartupError, match="MAX_RECEIVING_BYTES"):
        Settings.from_environment({"MAX_BODY_BYTES": "50000000"})
    Settings.from_environment({"MAX_BODY_BYTES": "50000000", "MAX_RECEIVING_BYTES": "60000000"})
