"""Where a request may go: by its URL, by the address behind its name."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from pytest_django import Settings

from src.core.net_guard import UrlRefused, check_address, check_base_url, check_target, check_url

PUBLIC = [
    "93.184.215.14",
    "1.1.1.1",
    "2606:4700:4700::1111",
    "2001:4860:4860::8888",
    "::ffff:93.184.215.14",
    "64:ff9b::5db8:d70e",  # 93.184.215.14 through NAT64
]
NOT_PUBLIC = {
    "127.0.0.1": "loopback",
    "127.255.255.254": "loopback",
    "::1": "loopback",
    "10.0.0.1": "private",
    "172.16.0.1": "private",
    "172.31.255.255": "private",
    "192.168.1.1": "private",
    "fd00::1": "private",
    "fc00::1": "private",
    "fec0::1": "site-local",
    "169.254.1.1": "link-local",
    "fe80::1": "link-local",
    "169.254.169.254": "metadata (AWS, Azure, GCP, DigitalOcean)",
    "169.254.170.2": "metadata (ECS)",
    "fd00:ec2::254": "metadata (AWS, IPv6)",
    "fd20:ce::254": "metadata (GCP, IPv6)",
    "100.100.100.200": "metadata (Alibaba)",
    "192.0.0.192": "metadata (Oracle)",
    "168.63.129.16": "metadata (Azure)",
    "100.64.0.1": "carrier-grade NAT",
    "100.127.255.255": "carrier-grade NAT",
    "224.0.0.1": "multicast",
    "239.255.255.250": "multicast",
    "ff02::1": "multicast",
    "ff0e::1": "multicast, global",
    "0.0.0.0": "unspecified",  # noqa: S104
    "0.1.2.3": "this network",
    "::": "unspecified",
    "255.255.255.255": "broadcast",
    "240.0.0.1": "reserved",
    "192.0.2.1": "documentation",
    "198.51.100.1": "documentation",
    "2001:db8::1": "documentation",
    "198.18.0.1": "benchmarking",
    "100::1": "discard",
    "::ffff:127.0.0.1": "loopback, mapped",
    "::ffff:169.254.169.254": "metadata, mapped",
    "::ffff:10.0.0.1": "private, mapped",
    "::127.0.0.1": "loopback, compatible",
    "64:ff9b::7f00:1": "loopback through NAT64",
    "64:ff9b::a9fe:a9fe": "metadata through NAT64",
    "64:ff9b:1::1": "private NAT64",
    "2002:5db8:d70e::1": "6to4",
    "2002:7f00:1::1": "loopback through 6to4",
    "2002:a9fe:a9fe::1": "metadata through 6to4",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2": "Teredo",
    "2001::1": "Teredo",
}


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_may_be_asked(address: str) -> None:
    check_address("vendor.example", ip_address(address))


@pytest.mark.parametrize("address", NOT_PUBLIC, ids=lambda address: f"{address} {NOT_PUBLIC[address]}")
def test_addresses_inside_the_network_may_not(address: str) -> None:
    with pytest.raises(UrlRefused, match="not a public"):
        check_address("vendor.example", ip_address(address))


@pytest.mark.parametrize(
    "url",
    [
        "https://api.openai.com/v1",
        "https://api.openai.com:8443/v1",
        "https://API.OpenAI.com",
        "HTTPS://api.openai.com",
        "https://api.openai.com./v1",
        "https://bücher.example/v1",
        "https://xn--bcher-kva.example/v1",
        "https://93.184.215.14/v1",
        "https://[2606:4700:4700::1111]/v1",
        "https://dead.beef",  # a name of hexadecimal letters
        "https://1e100.net",
        "http://127.0.0.1:8000/v1",  # AI_HTTP_HOSTS of the test settings
        "http://localhost:8000/v1",
        "http://LOCALHOST./v1",
        "https://localhost",
    ],
)
def test_these_urls_may_be_asked(url: str) -> None:
    check_url(url)
    check_base_url(url)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "https://"),
        ("api.openai.com/v1", "https://"),
        ("//api.openai.com/v1", "https://"),
        ("https://", "name a host"),
        ("https:///v1", "name a host"),
        ("https://:443/v1", "name a host"),
        ("ftp://api.openai.com", "https://"),
        ("file:///etc/passwd", "https://"),
        ("gopher://api.openai.com", "https://"),
        ("ws://api.openai.com", "https://"),
        ("javascript:alert(1)", "https://"),
        ("http://api.openai.com/v1", "AI_HTTP_HOSTS"),
        ("http://localhost.evil.example/v1", "AI_HTTP_HOSTS"),
        ("http://127.0.0.1.evil.example/v1", "AI_HTTP_HOSTS"),
        ("http://127.0.0.2/v1", "AI_HTTP_HOSTS"),
        ("https://user@api.openai.com/v1", "user name"),
        ("https://user:password@api.openai.com/v1", "user name"),
        ("https://:password@api.openai.com/v1", "user name"),
        ("https://@api.openai.com/v1", "user name"),
        ("https://127.0.0.1@evil.example/v1", "user name"),
        ("https://api.openai.com:0x50/v1", "can't be read"),
        ("https://api.openai.com:99999/v1", "can't be read"),
        ("https://api.openai.com:-1/v1", "can't be read"),
        ("https://[::1/v1", "can't be read"),
        ("https://[nonsense]/v1", "can't be read"),
        ("https://10.0.0.1/v1", "not a public"),
        ("https://169.254.169.254/latest/meta-data", "not a public"),
        ("https://[fd00:ec2::254]/latest", "not a public"),
        ("https://[::1]/v1", "not a public"),
        ("https://[::ffff:10.0.0.1]/v1", "not a public"),
        ("https://[fe80::1%25eth0]/v1", "not a public"),
        ("https://0.0.0.0/v1", "not a public"),
        ("https://127.0.0.2./v1", "not a public"),
        ("https://2130706434/v1", "not a public"),  # 127.0.0.2 in decimal
        ("https://0x7f000002/v1", "not a public"),
        ("https://0x7f.2/v1", "not a public"),
        ("https://017700000002/v1", "not a public"),
        ("https://0177.0.0.2/v1", "not a public"),
        ("https://127.2/v1", "not a public"),
        ("https://0/v1", "not a public"),
        ("https://2852039166/latest", "not a public"),  # 169.254.169.254
        ("https://0xa9.0xfe.0xa9.0xfe/latest", "not a public"),
    ],
)
def test_these_urls_may_not_be_asked(url: str, why: str) -> None:
    with pytest.raises(UrlRefused, match=why):
        check_url(url)
    with pytest.raises(UrlRefused, match=why):
        check_base_url(url)


@pytest.mark.parametrize("url", ["https://api.openai.com/v1?key=x", "https://api.openai.com/v1#x"])
def test_paths_can_not_be_appended_to_a_query(url: str) -> None:
    check_url(url)
    with pytest.raises(UrlRefused, match="query"):
        check_base_url(url)


@pytest.mark.parametrize("host", ["gpu.internal", "GPU.internal", "gpu.internal."])
def test_a_listed_host_may_speak_plain_http_and_have_a_private_address(settings: Settings, host: str) -> None:
    settings.AI_HTTP_HOSTS = ["GPU.Internal"]
    check_url(f"http://{host}:8000/v1")
    check_target("http", host)
    check_address(host, ip_address("10.0.0.1"))
    with pytest.raises(UrlRefused):
        check_address("other.internal", ip_address("10.0.0.1"))


@pytest.mark.parametrize("listed", ["bücher.example", "xn--bcher-kva.example"])
@pytest.mark.parametrize("host", ["bücher.example", "BÜCHER.example", "xn--bcher-kva.example"])
def test_a_listed_host_may_be_written_in_either_alphabet(settings: Settings, listed: str, host: str) -> None:
    settings.AI_HTTP_HOSTS = [listed]
    check_target("http", host)


def test_listing_one_address_lists_no_other(settings: Settings) -> None:
    settings.AI_HTTP_HOSTS = ["10.0.0.1", "::1"]
    check_url("http://10.0.0.1:8000")
    check_url("http://[::1]:8000")
    for url in ("http://10.0.0.2:8000", "https://10.0.0.2", "https://127.0.0.1", "https://[::2]"):
        with pytest.raises(UrlRefused):
            check_url(url)
