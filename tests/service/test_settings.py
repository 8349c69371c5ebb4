"""Settings come from the environment, and impossible ones are refused in a sentence."""

import os
from pathlib import Path

import pytest

from service.settings import Settings, SettingsError, is_loopback, load_settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("ATTUNE_")]:
        monkeypatch.delenv(name)


def test_environment_variables_set_them(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTUNE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("ATTUNE_PORT", "9000")
    monkeypatch.setenv("ATTUNE_MAX_IMAGE_PIXELS", "1000")
    settings = Settings()
    assert (settings.data_dir, settings.port, settings.max_image_pixels) == (tmp_path, 9000, 1000)
    assert settings.effective_database_url == f"sqlite:///{tmp_path}/attune.db"
    assert settings.jobs_dir == tmp_path / "jobs"


def test_arguments_win_over_the_environment(monkeypatch):
    monkeypatch.setenv("ATTUNE_PORT", "9000")
    assert load_settings(port=9001).port == 9001


def test_an_empty_variable_counts_as_absent(monkeypatch):
    monkeypatch.setenv("ATTUNE_PORT", "")
    assert Settings().port == 8321


def test_home_and_relative_folders_become_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert Settings().data_dir == Path.home() / ".attune"
    assert Settings(data_dir=Path("here")).data_dir == tmp_path / "here"


def test_a_bad_value_is_named_with_its_variable(monkeypatch):
    monkeypatch.setenv("ATTUNE_PORT", "eighty")
    with pytest.raises(SettingsError, match=r"^ATTUNE_PORT: .*got 'eighty'$"):
        load_settings()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "attune.example.org"])
def test_other_addresses_are_reachable_by_strangers(host):
    assert not is_loopback(host)
    assert load_settings(host=host).metrics_are_open is False


def test_lists_come_with_separators(monkeypatch):
    monkeypatch.setenv("ATTUNE_ALLOWED_ROOTS", "/data:/mnt/images")
    monkeypatch.setenv("ATTUNE_ALLOWED_URLS", "s3://bucket/, https://data.example.org/")
    settings = Settings()
    assert settings.allowed_roots == (Path("/data"), Path("/mnt/images"))
    assert settings.allowed_urls == ("s3://bucket/", "https://data.example.org/")
    assert Settings(allowed_urls=()).allowed_urls == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_addresses_need_none(host):
    assert is_loopback(host)
    assert load_settings(host=host).host == host
