import ipaddress

import pytest

from service.webhooks.addresses import Addresses, AddressRefused

WORLD = Addresses()
INSIDE = Addresses.of(["10.0.0.0/8", "127.0.0.0/8"])


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1/hook",
        "https://localhost/hook",
        "https://[::1]:8080/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::ffff:10.0.0.1]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "http://example.org/hook",
        "ftp://example.org/hook",
        "https://user:password@example.org/",
        "https://example.org/#part",
        "https:///nowhere",
        "https://example.org:99999/",
        "https://exa mple.org/",
        "https://ex\nample.org/",
    ],
)
def test_what_leads_inside_or_nowhere_is_refused(url):
    with pytest.raises(AddressRefused):
        WORLD.check_url(url)


@pytest.mark.parametrize("url", ["https://example.org/hook", "https://93.184.216.34:8443/hook?key=1"])
def test_the_world_is_reachable_by_https(url):
    WORLD.check_url(url)


def test_named_networks_are_reachable_also_without_encryption():
    INSIDE.check_url("http://10.1.2.3:9000/hook")
    with pytest.raises(AddressRefused, match="ATTUNE_WEBHOOK_ALLOWED_NETWORKS"):
        INSIDE.check_url("http://192.168.1.1/hook")
    with pytest.raises(AddressRefused, match="https"):
        INSIDE.check(ipaddress.ip_address("93.184.216.34"), encrypted=False)


def test_a_name_that_means_this_machine_is_refused_when_it_is_looked_up():
    with pytest.raises(AddressRefused, match="no public address"):
        WORLD.resolve("localhost", 443, encrypted=True)
    assert "127.0.0.1" in Addresses.of(["127.0.0.0/8", "::1/128"]).resolve("localhost", 80, encrypted=False)
