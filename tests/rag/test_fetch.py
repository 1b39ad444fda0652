"""Documents from URLs, against servers of one's own on the loopback interface."""

import gzip
import ipaddress
import socket
import ssl
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from rag import fetch as fetching
from rag.errors import Cancelled, FetchFailed, InvalidInput, TooLarge
from rag.fetch import FetchLimits, disposition_name, fetch, refused_because, url_name
from rag.work import Work, working
from tests.websites import Site, endless, running

CERTIFICATE = Path(__file__).parent / "files_test.pem"  # of files.test, with its key


@pytest.fixture
def site() -> Iterator[Site]:
    with running(Site()) as opened:
        yield opened


def limits(**changes) -> FetchLimits:
    return FetchLimits(**{"max_bytes": 100_000, "seconds": 10, "private": True, **changes})


def fetched(url: str, **changes) -> tuple[bytes, str, str | None]:
    found = fetch(url, limits(**changes))
    with found.file:
        content = found.file.read()
    assert found.size == len(content)
    return content, found.name, found.media_type


def test_a_document_with_its_type_and_name(site):
    site.pages["/shelf/a%20light.pdf?v=2"] = (200, {"Content-Type": "application/pdf"}, b"%PDF")
    found = fetched(site.url("/shelf/a%20light.pdf?v=2#page=3"))
    assert found == (b"%PDF", "a light.pdf", "application/pdf")
    (_, headers) = site.asked[0]
    assert headers["Host"] == f"127.0.0.1:{site.server_address[1]}"
    assert headers["Accept-Encoding"] == "identity"


def test_the_name_that_the_server_gives_wins(site):
    said = {"Content-Disposition": 'attachment; filename="../../etc/manual.pdf"'}
    site.pages["/download"] = (200, said, b"x")
    assert fetched(site.url("/download"))[1:] == ("manual.pdf", None)


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("attachment; filename=plain.txt", "plain.txt"),
        ('attachment; filename="a \\"b\\".txt"', 'a "b".txt'),
        ("attachment; filename*=UTF-8''L%C3%BCbeck.txt; filename=x.txt", "Lübeck.txt"),
        ('attachment; filename="..\\\\..\\\\evil.txt"', "evil.txt"),
        ("attachment; filename*=UTF-8''a%00b.txt", ""),
        ("attachment; filename*=UTF-8''%E2%80%AEtxt.exe", ""),
        ("inline", ""),
        ("", ""),
    ],
)
def test_names_in_headers(header, name):
    assert disposition_name(header) == name


def test_names_in_urls():
    assert url_name("https://example.org/a/b.html?x=/y") == "b.html"
    assert url_name("https://example.org/a/") == "a"
    assert url_name("https://example.org") == "example.org"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://example.org/a", "only http"),
        ("file:///etc/passwd", "only http"),
        ("gopher://127.0.0.1:70/_x", "only http"),
        ("/etc/passwd", "only http"),
        ("http://", "only http"),
        ("http://[::1/", "is no URL"),
        ("http://a\0b/", "is no URL"),
        ("https://user:secret@example.org/a", "user name or password"),
        ("https://example.org/" + "a" * 9000, "characters"),
    ],
)
def test_what_is_no_address_of_a_document(url, says):
    with pytest.raises(InvalidInput, match=says) as caught:
        fetch(url, limits())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", "loopback"),
        ("127.8.8.8", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("::", "unspecified"),
        ("10.1.2.3", "private"),
        ("172.16.0.1", "private"),
        ("192.168.0.1", "private"),
        ("fd00::1", "private"),
        ("169.254.169.254", "link-local"),
        ("fe80::1", "link-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("240.0.0.1", "private"),
        ("255.255.255.255", "private"),
        ("100.64.0.1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"),  # NAT64
        ("2002:7f00:1::", "loopback"),  # 6to4
        ("8.8.8.8", ""),
        ("2606:4700:4700::1111", ""),
        ("64:ff9b::808:808", ""),
        ("::ffff:8.8.8.8", ""),
    ],
)
def test_addresses_of_other_networks_than_the_public_one(address, why):
    assert refused_because(ipaddress.ip_address(address)) == why


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"]
)
def test_the_own_network_is_not_asked_however_it_is_written(site, host):
    with pytest.raises(InvalidInput, match="is loopback") as caught:
        fetch(site.url("/", host), limits(private=False))
    assert "RAG_FETCH_PRIVATE" in caught.value.hint
    assert site.asked == []


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    def both(_, port, **__):
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("8.8.8.8", port)), (*kind, ("10.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(InvalidInput, match=r"10\.0\.0\.1 is private"):
        fetch("http://files.test/", limits(private=False))


@pytest.fixture
def first_is_public(monkeypatch):
    """127.0.0.1 passes for a public address, as a test's own server cannot be at one."""
    refused = fetching.refused_because
    public = ipaddress.ip_address("127.0.0.1")
    monkeypatch.setattr(
        fetching, "refused_because", lambda address: "" if address == public else refused(address)
    )


@pytest.mark.usefixtures("first_is_public")
def test_each_hop_is_checked_again(site):
    for path, to in {
        "/inside": site.url("/secret", "127.0.0.2"),
        "/metadata": "http://169.254.169.254/latest/meta-data/",
        "/file": "file:///etc/passwd",
        "/login": site.url("/secret", "me:pw@127.0.0.1"),
        "/relative": "onward",
    }.items():
        site.pages[path] = (302, {"Location": to}, b"")
    site.pages["/onward"] = (200, {}, b"here")
    private = limits(private=False)
    for path, says in {
        "/inside": "127.0.0.2 is loopback",
        "/metadata": "is link-local",
        "/file": "only http",
        "/login": "user name or password",
    }.items():
        with pytest.raises(InvalidInput, match=says):
            fetch(site.url(path), private)
    assert "/secret" not in [path for path, _ in site.asked]
    assert fetched(site.url("/relative"), private=False)[:2] == (b"here", "onward")


@pytest.mark.usefixtures("first_is_public")
def test_a_name_is_looked_up_once_and_that_very_address_asked(site, monkeypatch):
    """The second look-up of a rebinding name would lead to where the first did not."""
    look_up, answers = socket.getaddrinfo, iter(["127.0.0.1", "127.0.0.2", "127.0.0.2"])

    def rebinding(host, *arguments, **options):
        return look_up(next(answers) if host == "rebind.test" else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    site.pages["/a"] = (200, {}, b"public")
    assert fetched(site.url("/a", "rebind.test"), private=False)[0] == b"public"
    assert next(answers) == "127.0.0.2"  # the first one only was used
    assert site.asked[0][1]["Host"].startswith("rebind.test:")


def test_redirects_are_bounded(site):
    for number in range(10):
        site.pages[f"/{number}"] = (301, {"Location": f"/{number + 1}"}, b"")
    site.pages["/3"] = (200, {}, b"third")
    assert fetched(site.url("/0"), redirects=3)[0] == b"third"
    with pytest.raises(FetchFailed, match="more than 2 times"):
        fetch(site.url("/0"), limits(redirects=2))
    site.pages["/loop"] = (302, {"Location": "/loop"}, b"")
    with pytest.raises(FetchFailed, match="more than 5 times"):
        fetch(site.url("/loop"), limits())


def test_a_body_without_end_is_cut_at_the_limit(site):
    site.pages["/endless"] = (200, {}, endless(site))
    with pytest.raises(TooLarge, match="has more than"):
        fetch(site.url("/endless"), limits())
    site.pages["/announced"] = (200, {"Content-Length": "100001"}, b"")
    with pytest.raises(TooLarge):
        fetch(site.url("/announced"), limits())
    site.pages["/exact"] = (200, {}, b"x" * 100_000)
    assert len(fetched(site.url("/exact"))[0]) == 100_000


def dripping(site: Site) -> Iterator[bytes]:
    while not site.over.wait(0.02):
        yield b"x"


def silent(site: Site) -> Iterator[bytes]:
    site.over.wait(30)
    yield b""


@pytest.mark.parametrize("body", [dripping, silent])
def test_time_is_bounded_however_the_body_comes(site, body):
    site.pages["/slow"] = (200, {}, body(site))
    with pytest.raises(FetchFailed, match=r"within 0\.3 s"):
        fetch(site.url("/slow"), limits(seconds=0.3))


def test_a_server_that_says_nothing_at_all():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(FetchFailed, match=r"within 0\.2 s"):
            fetch(f"http://127.0.0.1:{port}/", limits(seconds=0.2))


def test_packed_bodies_count_by_what_they_unpack_to(site):
    text = b"The light turns. " * 100
    packings = {
        "gzip": gzip.compress(text),
        "deflate": zlib.compress(text),
        "x-gzip": gzip.compress(text[:50]) + gzip.compress(text[50:]),
    }
    for coding, packed in packings.items():
        site.pages["/packed"] = (200, {"Content-Encoding": coding}, packed)
        assert fetched(site.url("/packed"))[0] == text
    bomb = gzip.compress(b"\0" * 20_000_000)
    assert len(bomb) < 100_000
    site.pages["/bomb"] = (200, {"Content-Encoding": "gzip"}, bomb)
    with pytest.raises(TooLarge):
        fetch(site.url("/bomb"), limits())
    for headers, body, says in (
        ({"Content-Encoding": "gzip"}, bomb[:100], "ends too early"),
        ({"Content-Encoding": "gzip"}, b"no gzip at all", "comes damaged"),
        ({"Content-Encoding": "br"}, b"x", "not asked for: br"),
    ):
        site.pages["/wrong"] = (200, headers, body)
        with pytest.raises(FetchFailed, match=says):
            fetch(site.url("/wrong"), limits(max_bytes=10**9))


def test_what_else_goes_wrong_is_said(site):
    with pytest.raises(FetchFailed, match="status 404"):
        fetch(site.url("/nothing"), limits())
    site.pages["/short"] = (200, {"Content-Length": "100"}, b"x" * 10)
    with pytest.raises(FetchFailed, match="cannot be fetched"):
        fetch(site.url("/short"), limits())
    with pytest.raises(FetchFailed, match="is not known"):
        fetch("http://nowhere.invalid/", limits())
    with pytest.raises(FetchFailed, match="cannot be fetched"):
        fetch("http://127.0.0.1:1/", limits())


def test_secrets_of_a_url_are_not_said(site):
    with pytest.raises(FetchFailed) as caught:
        fetch(site.url("/nothing?token=secret"), limits())
    assert "secret" not in str(caught.value)


def test_nothing_is_fetched_for_whoever_went_away(site):
    site.pages["/endless"] = (200, {}, endless(site))
    work = Work()
    work.cancelled.set()
    with working(work), pytest.raises(Cancelled):
        fetch(site.url("/endless"), limits(max_bytes=10**12))


def test_proxies_of_the_environment_are_not_asked(site, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.pages["/a"] = (200, {}, b"direct")
    assert fetched(site.url("/a"))[0] == b"direct"


def test_tls_asks_for_the_name_and_not_for_the_address(monkeypatch):
    look_up, names = socket.getaddrinfo, []

    def here(host, *arguments, **options):
        return look_up("127.0.0.1" if host.endswith(".test") else host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", here)
    serves = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serves.load_cert_chain(CERTIFICATE)
    serves.sni_callback = lambda _, name, __: names.append(name)
    trust = ssl.create_default_context(cafile=CERTIFICATE)
    with running(Site(tls=serves)) as site:
        site.pages["/a"] = (200, {}, b"over TLS")
        found = fetch(site.url("/a", "files.test", "https"), limits(), trust=trust)
        with found.file:
            assert found.file.read() == b"over TLS"
        assert names == ["files.test"]
        with pytest.raises(FetchFailed, match="certificate"):
            fetch(site.url("/a", "other.test", "https"), limits(), trust=trust)
        with pytest.raises(FetchFailed, match="certificate"):
            fetch(site.url("/a", "files.test", "https"), limits())  # nobody vouches for it
