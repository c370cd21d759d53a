"""Requests to httpbin that a proxy may get wrong, as data. Send them one at a time: some seed httpbin's one generator."""

import base64
import hashlib
import random

from tests.e2e.differential import Case

JSON = ("Content-Type", "application/json")
FORM = ("Content-Type", "application/x-www-form-urlencoded")
BINARY = ("Content-Type", "application/octet-stream")

EVERY_BYTE = bytes(range(256))
MIB = random.Random(20261122).randbytes(1 << 20)
POEM = "Ein Männlein steht im Walde, ganz still und stumm. 森の中 🍄\n".encode()

MULTIPART = ("Content-Type", 'multipart/form-data; boundary="--a:b (c)"')
PARTS = (
    b'----a:b (c)\r\nContent-Disposition: form-data; name="word"\r\n\r\nmushroom\r\n'
    b'----a:b (c)\r\nContent-Disposition: form-data; name="file"; filename="all.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + EVERY_BYTE + b"\r\n----a:b (c)--\r\n"
)


def _basic(user: str, password: str) -> tuple[str, str]:
    return ("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())


def _digest(path: str, password: str, qop: str, algorithm: str = "MD5", body: bytes = b"") -> tuple[str, str]:
    """The Authorization header of RFC 7616. httpbin keeps no nonces, so a fixed one does."""

    def digest(text: str) -> str:
        return hashlib.new(algorithm.replace("-", ""), text.encode()).hexdigest()

    realm, nonce, cnonce, count = "me@kennethreitz.com", "0a4f113b", "f2/wE4q7", "00000001"
    content = ":" + digest(body.decode()) if qop == "auth-int" else ""
    secret, request = digest(f"ada:{realm}:{password}"), digest(f"GET:{path}{content}")
    response = digest(f"{secret}:{nonce}:{count}:{cnonce}:{qop}:{request}")
    parameters = (
        f'username="ada", realm="{realm}", nonce="{nonce}", uri="{path}", algorithm={algorithm}, qop={qop}, '
        f'nc={count}, cnonce="{cnonce}", response="{response}", opaque="5ccc069c"'
    )
    return ("Authorization", f"Digest {parameters}")


METHODS = [
    Case("get", "GET", "/get?show=me"),
    Case("post", "POST", "/post", (BINARY,), b"posted"),
    Case("put", "PUT", "/put", (BINARY,), b"put"),
    Case("patch", "PATCH", "/patch", (BINARY,), b"patched"),
    Case("delete", "DELETE", "/delete"),
    Case("delete with a body", "DELETE", "/delete", (BINARY,), b"why not"),
    Case("get with a body", "GET", "/anything", (BINARY,), b"odd, but HTTP"),
    Case("head", "HEAD", "/html"),
    Case("head of bytes", "HEAD", "/bytes/77?seed=1"),
    Case("head of a stream", "HEAD", "/stream-bytes/10?seed=1"),
    Case("head not found", "HEAD", "/nowhere"),
    Case("options", "OPTIONS", "/get"),
    Case(
        "preflight",
        "OPTIONS",
        "/post",
        (("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "x-one, x-two")),
    ),
    Case("trace", "TRACE", "/anything"),
    Case("webdav method", "PROPFIND", "/get"),
    Case("method of nobody", "SPROCKET", "/get"),
    Case("method not allowed", "POST", "/get", (), b""),
]

STATUSES = [
    *(
        Case(f"status {code}", "GET", f"/status/{code}")
        for code in (200, 201, 202, 203, 204, 205, 206, 226, 300, 301, 302, 303, 304, 305, 307, 308)
    ),
    *(
        Case(f"status {code}", "GET", f"/status/{code}")
        for code in (400, 401, 402, 403, 404, 405, 406, 407, 408, 409, 410, 412, 413, 418, 421, 422, 425, 428, 429, 451)
    ),
    *(Case(f"status {code}", "GET", f"/status/{code}") for code in (500, 501, 502, 503, 504, 507, 511, 599)),
    Case("status of a post", "POST", "/status/503", (), b"retry me not"),
    Case("status that is none", "GET", "/status/teapot"),
    Case("fault of the app", "GET", "/redirect/0"),
    Case("not found", "GET", "/nowhere/at/all"),
]

REDIRECTS = [
    Case("redirect, relative", "GET", "/relative-redirect/3"),
    Case("redirect, relative, the last", "GET", "/relative-redirect/1"),
    Case("redirect, absolute", "GET", "/absolute-redirect/3"),
    Case("redirect, absolute by query", "GET", "/redirect/2?absolute=true"),
    Case("redirect to elsewhere", "GET", "/redirect-to?url=https%3A%2F%2Fexample.com%2Fa%3Fb%3Dc%23d"),
    Case("redirect 307 of a post", "POST", "/redirect-to?url=%2Fpost&status_code=307", (), b"again"),
    Case("redirect of links", "GET", "/links/4"),
]

COOKIES = [
    Case("cookies", "GET", "/cookies", (("Cookie", "a=1; b=two; c=%C3%A9"),)),
    Case("cookies in two fields", "GET", "/cookies", (("Cookie", "a=1"), ("Cookie", "b=2"))),
    Case("cookie set", "GET", "/cookies/set/flavour/mint"),
    Case("cookies set, two", "GET", "/cookies/set?a=1&b=2"),
    Case("cookies deleted", "GET", "/cookies/delete?a&b", (("Cookie", "a=1; b=2"),)),
]

CODINGS = [
    Case("gzip", "GET", "/gzip", (("Accept-Encoding", "gzip"),)),
    Case("deflate", "GET", "/deflate", (("Accept-Encoding", "deflate"),)),
    Case("brotli", "GET", "/brotli", (("Accept-Encoding", "br"),)),
    Case("gzip, not asked for", "GET", "/gzip"),
    Case("accept-encoding identity", "GET", "/headers", (("Accept-Encoding", "identity;q=1, *;q=0"),)),
    Case("content-encoding of a request", "POST", "/post", (("Content-Encoding", "gzip"), BINARY), EVERY_BYTE),
]

UPLOADS = [
    Case("no body at all", "POST", "/post"),
    Case("empty body", "POST", "/post", (), b""),
    Case("empty body, typed", "PUT", "/put", (JSON,), b""),
    Case("json", "POST", "/post", (JSON,), b'{"a": [1, 2.5, null, "\\u00e9"], "b": {"c": true}}'),
    Case("json that is none", "POST", "/post", (JSON,), b'{"a": '),
    Case("text in utf-8", "POST", "/post", (("Content-Type", "text/plain; charset=utf-8"),), POEM),
    Case("every byte", "POST", "/post", (BINARY,), EVERY_BYTE),
    Case("line ends", "POST", "/post", (BINARY,), b"\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
    Case("form", "POST", "/post", (FORM,), b"a=1&a=2&b=x+y%20z&empty=&u=%E2%98%83"),
    Case("multipart", "POST", "/post", (MULTIPART,), PARTS),
    Case("multipart, chunked", "POST", "/post", (MULTIPART,), PARTS, chunked=True),
    Case("1 MiB", "POST", "/post", (BINARY,), MIB),
    Case("1 MiB, chunked", "PUT", "/put", (BINARY,), MIB, chunked=True),
    Case("chunked", "POST", "/post", (BINARY,), EVERY_BYTE, chunked=True),
    Case("chunked, json", "POST", "/anything/chunks", (JSON,), b'{"chunked": true}', chunked=True),
    Case("chunked, empty", "POST", "/post", (BINARY,), b"", chunked=True),
    Case("chunk extensions", "POST", "/post", (BINARY,), POEM, chunked=True, raw=frozenset({"chunk-extensions"})),
    Case("trailers", "POST", "/post", (BINARY,), POEM, chunked=True, raw=frozenset({"trailers"})),
    Case("trickle", "POST", "/post", (BINARY, ("X-Slow", "very")), POEM, raw=frozenset({"trickle"})),
    Case("trickle, chunked", "POST", "/post", (BINARY,), POEM, chunked=True, raw=frozenset({"trickle"})),
    Case("expect a 100", "POST", "/post", (BINARY,), POEM, raw=frozenset({"expect-continue"})),
]

DOWNLOADS = [
    Case("bytes", "GET", "/bytes/1024?seed=7"),
    Case("bytes, 100 KiB", "GET", "/bytes/102400?seed=7"),
    Case("bytes, none", "GET", "/bytes/0"),
    Case("stream", "GET", "/stream/20"),
    Case("stream, one", "GET", "/stream/1?q=%22"),
    Case("stream of bytes", "GET", "/stream-bytes/102400?seed=9&chunk_size=777"),
    Case("stream of bytes, none", "GET", "/stream-bytes/0?seed=9"),
    Case("drip", "GET", "/drip?duration=0.2&numbytes=5&code=200&delay=0.1"),
    Case("drip of an error", "GET", "/drip?duration=0.1&numbytes=3&code=503"),
    Case("delay", "GET", "/delay/0.2"),
    Case("http/1.0", "GET", "/get", raw=frozenset({"http/1.0"})),
    Case("http/1.0 of a stream", "GET", "/stream-bytes/3000?seed=3", raw=frozenset({"http/1.0"})),
]

RANGES = [
    Case("range, whole", "GET", "/range/2048"),
    Case("range, 100 KiB", "GET", "/range/102400?chunk_size=5000"),
    Case("range, first", "GET", "/range/2048", (("Range", "bytes=0-99"),)),
    Case("range, open", "GET", "/range/2048", (("Range", "bytes=2000-"),)),
    Case("range, last", "GET", "/range/2048", (("Range", "bytes=-48"),)),
    Case("range, outside", "GET", "/range/2048", (("Range", "bytes=5000-6000"),)),
    Case("range, if-range", "GET", "/range/2048", (("Range", "bytes=10-19"), ("If-Range", '"range2048"'))),
    Case("range, too large", "GET", "/range/999999"),
    Case("range, head", "HEAD", "/range/2048", (("Range", "bytes=0-99"),)),
]

CACHING = [
    Case("cache", "GET", "/cache"),
    Case("cache, fresh", "GET", "/cache", (("If-None-Match", '"any"'),)),
    Case("cache, since", "GET", "/cache", (("If-Modified-Since", "Sun, 22 Nov 2026 08:00:00 GMT"),)),
    Case("cache-control", "GET", "/cache/60"),
    Case("etag", "GET", "/etag/abc"),
    Case("etag, none-match", "GET", "/etag/abc", (("If-None-Match", 'W/"xyz", "abc"'),)),
    Case("etag, match fails", "GET", "/etag/abc", (("If-Match", '"xyz"'),)),
    Case("etag, head", "HEAD", "/etag/abc", (("If-None-Match", "*"),)),
]

AUTH = [
    Case("basic, asked", "GET", "/basic-auth/ada/secret"),
    Case("basic, right", "GET", "/basic-auth/ada/secret", (_basic("ada", "secret"),)),
    Case("basic, wrong", "GET", "/basic-auth/ada/secret", (_basic("ada", "guess"),)),
    Case("basic, colon and umlaut", "GET", "/basic-auth/ada/a:%C3%BC", (_basic("ada", "a:ü"),)),
    Case("basic, hidden", "GET", "/hidden-basic-auth/ada/secret"),
    Case("bearer, asked", "GET", "/bearer"),
    Case("bearer, given", "GET", "/bearer", (("Authorization", "Bearer aGVsbG8.d29ybGQ="),)),
    Case("digest, asked", "GET", "/digest-auth/auth/ada/secret"),
    Case("digest, asked for SHA-256", "GET", "/digest-auth/auth-int/ada/secret/SHA-256/3"),
    Case(
        "digest, right",
        "GET",
        "/digest-auth/auth/ada/secret",
        (_digest("/digest-auth/auth/ada/secret", "secret", "auth"),),
    ),
    Case(
        "digest, right, SHA-256 with the body",
        "GET",
        "/digest-auth/auth-int/ada/secret/SHA-256",
        (_digest("/digest-auth/auth-int/ada/secret/SHA-256", "secret", "auth-int", "SHA-256"),),
    ),
    Case(
        "digest, wrong",
        "GET",
        "/digest-auth/auth/ada/secret",
        (_digest("/digest-auth/auth/ada/secret", "guess", "auth"),),
    ),
    Case(
        "digest, stale",
        "GET",
        "/digest-auth/auth/ada/secret",
        (_digest("/digest-auth/auth/ada/secret", "secret", "auth"), ("Cookie", "stale_after=0; fake=fake_value")),
    ),
]

PATHS = [
    Case(f"path {path}", "GET", path)
    for path in (
        "/anything/caf%C3%A9/%E6%A3%AE",
        "/anything/caf%c3%a9",  # lower-case hex
        "/anything/a%20b+c",
        "/anything/a%2Fb",
        "/anything/..%2fget",
        "/anything/%2e%2e/get",
        "/anything/../get",
        "/anything/./get",
        "/anything//twice///slashed",
        "//anything/first",
        "/anything/",
        "/anything/a;v=1;w/b;x",
        "/anything/:@!$&'()*,=~-._",
        "/anything/100%25",
        "/anything/%00nul",
        "/anything/%0d%0aX-Injected:%20yes",
        "/anything/v1/call/orders@2/path",
        "/anything/http://example.com/x",
        "/anything/@host:80/",
        "/get?",
        "/get?a",
        "/get?a=&b==&&c=1&c=2",
        "/get?a=%26%3D%23&b=x+y%20z&%C3%A9=%E2%98%83",
        "/get?a[]=1&a[b]=2&c={d}|e^f`g",
        "/get?next=/path/?and=more?even",
        "/get?" + "&".join(f"key{n}=value{n}" for n in range(200)),
        "/anything/" + "long" * 500,
    )
]

HEADERS = [
    Case("headers", "GET", "/headers"),
    Case("user-agent", "GET", "/user-agent", (("User-Agent", "mushroom/1.0 (like; Gecko)"),)),
    Case("ip", "GET", "/ip"),
    Case("header, repeated", "GET", "/headers", (("X-Many", "one"), ("X-Other", "-"), ("x-many", "two, three"))),
    Case("header, empty", "GET", "/headers", (("X-Empty", ""), ("X-Full", "."))),
    Case("header, odd case", "GET", "/headers", (("x-lOwEr-UPPER", "CaSe"),)),
    Case("header, spaces inside", "GET", "/headers", (("X-Spaced", "a  b\tc"),)),
    Case("header, token characters", "GET", "/headers", (("X!#$%&'*+.^`|~", "token"),)),
    Case("header, quoted", "GET", "/headers", (("X-Quoted", 'a, "b, \\"c\\"", d;e=f'),)),
    Case("header, utf-8", "GET", "/headers", (("X-Name", "Jürgen 森".encode().decode("latin-1")),)),
    Case("header of 6 KB", "GET", "/headers", (("X-Long", "0123456789abcdef" * 384),)),
    Case("headers, 80", "GET", "/headers", tuple((f"X-Number-{n}", str(n)) for n in range(80))),
    Case("header of a proxy before us", "GET", "/get", (("X-Forwarded-For", "203.0.113.9"), ("Via", "1.1 edge"))),
    Case("header, forwarded proto", "GET", "/get", (("X-Forwarded-Proto", "https"),)),
    Case(
        "trace headers",
        "GET",
        "/headers",
        (
            ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
            ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
            ("baggage", "user=ada,colour=red"),
        ),
    ),
    Case(
        "accept and language", "GET", "/headers", (("Accept", "text/*;q=0.3, */*"), ("Accept-Language", "de, en;q=.5"))
    ),
    Case("origin of our own", "GET", "/response-headers?Vary=Origin", (("Referer", "http://localhost/page"),)),
    Case("response header, repeated", "GET", "/response-headers?X-Many=1&X-Other=-&X-Many=2"),
    Case("response cookies, repeated", "GET", "/response-headers?Set-Cookie=a%3D1&Set-Cookie=b%3D2%3B%20Path%3D/"),
    Case("response header, empty", "GET", "/response-headers?X-Empty="),
    Case("response header, latin-1", "GET", "/response-headers?X-Name=J%C3%BCrgen"),
    Case("response header, long", "GET", "/response-headers?X-Long=" + "0123456789abcdef" * 200),
    Case(
        "response link and warning", "POST", "/response-headers?Link=%3C/a%3E%3B%20rel%3Dnext&Warning=199%20-%20%22x%22"
    ),
    Case("response content type", "GET", "/response-headers?Content-Type=text/plain%3B%20charset%3DUTF-8"),
    Case(
        "response etag and expiry",
        "GET",
        "/response-headers?ETag=%22x%22&Expires=Thu,%2001%20Jan%202026%2000:00:00%20GMT",
    ),
]

FORMATS = [
    Case("html", "GET", "/html"),
    Case("utf8", "GET", "/encoding/utf8"),
    Case("xml", "GET", "/xml"),
    Case("json page", "GET", "/json"),
    Case("robots", "GET", "/robots.txt"),
    Case("deny", "GET", "/deny"),
    Case("links", "GET", "/links/10/3"),
    Case("form page", "GET", "/forms/post"),
    Case("front page", "GET", "/"),
    Case("base64", "GET", "/base64/SGVsbG8sIPCfjYQ="),
    Case("uuid", "GET", "/uuid"),
    Case("image, png", "GET", "/image/png"),
    Case("image, jpeg", "GET", "/image/jpeg"),
    Case("image, webp", "GET", "/image/webp"),
    Case("image, svg", "GET", "/image/svg"),
    Case("image, as accepted", "GET", "/image", (("Accept", "image/webp, image/png;q=0.5"),)),
    Case("image, none accepted", "GET", "/image", (("Accept", "text/plain"),)),
    Case("anything", "PUT", "/anything/at/all?x=1", (JSON, ("X-Also", "this")), b'{"y": 2}'),
]

CASES: list[Case] = [
    *METHODS,
    *STATUSES,
    *REDIRECTS,
    *COOKIES,
    *CODINGS,
    *UPLOADS,
    *DOWNLOADS,
    *RANGES,
    *CACHING,
    *AUTH,
    *PATHS,
    *HEADERS,
    *FORMATS,
]
