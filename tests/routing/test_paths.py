"""The canonical form of paths, patterns and templates."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from passerelle.appserver.paths import decode_path
from passerelle.errors import Failure, Kind
from passerelle.routing.paths import (
    _CLEAN,
    MAX_SEGMENTS,
    EncodedSlashError,
    Pattern,
    PatternError,
    Template,
    canonical_path,
    purged_path,
)

UNRESERVED = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~"


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/user/42",
        b"/a/b/",
        b"/a/b.json",
        b"/.well-known/x",
        b"/a/...",
        b"/..../closed",
        b"/a..b/c.",
        b"/q/te%252Fst/get",
        b"/q/a%3Fb/get",
        b"/caf%C3%A9",
        b"/a;b=1/c,d",
        b"/x:y@z/!$&'()*+=",
        b'/[a]|{b}^`"<>',
        b"/%20",
        b"/..a/.b",
        b"/..%25",
    ],
)
def test_a_canonical_path_is_itself(path: bytes) -> None:
    assert canonical_path(path) == path


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"/%41%7a%30%2d%5F%7E", b"/Az0-_~"),
        (b"/a%3fb", b"/a%3Fb"),
        (b"/%c3%a9", b"/%C3%A9"),
        (b"/%2e%2e/closed", b"/closed"),
        (b"/open/../closed/s", b"/closed/s"),
        (b"/open/%2e%2e/closed/s", b"/closed/s"),
        (b"/open/.%2E/closed/s", b"/closed/s"),
        (b"/../../a", b"/a"),
        (b"/a/b/..", b"/a/"),
        (b"/a/b/.", b"/a/b/"),
        (b"/./a/./b", b"/a/b"),
        (b"/..", b"/"),
        (b"/.", b"/"),
        (b"//", b"/"),
        (b"//a", b"/a"),
        (b"/a//b///c//", b"/a/b/c/"),
        (b"/....//closed", b"/..../closed"),
        (b"/a//../b", b"/b"),
        (b"/a/..//b", b"/b"),
        (b"/a/.//b", b"/a/b"),
        (b"/a/%2e%2e//b", b"/b"),
        (b"/a/%2E./b", b"/b"),
    ],
)
def test_escapes_and_dot_segments_are_resolved(path: bytes, canonical: bytes) -> None:
    assert canonical_path(path) == canonical


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"user",
        b"*",
        b"http://a/b",
        b"/a\\b",
        b"/open\\..\\closed",
        b"/a%5cb",
        b"/a%5Cb",
        b"/q/a%00b/get",
        b"/a%0d%0aX: y",
        b"/a%7F",
        b"/a\x00",
        b"/a\x1fb",
        b"/a\x7f",
        b"/a b",
        b"/a?b",
        b"/a#b",
        b"/a%",
        b"/a%4",
        b"/a%zz",
        b"/a%u002e",
        b"/a%%34%31",
        b"/caf\xc3\xa9",
        b"/open/..;/closed/s",
        b"/open/..;x=1/closed",
        b"/open/.;/closed",
        b"/open/%2e%2e;/closed",
        b"/open/..%3b/closed",
        b"/open/x/..%2f..%2fclosed/s",
        b"/open/..%2Fclosed",
        b"/open/.%2Fclosed",
        b"/open/x%2F../closed",
        b"/open/x%2F..",
        b"/open/x%2f%2e%2e%2Fclosed",
        b"/open/x%2F.;a/closed",
        b"/open/%C0%AE%C0%AE/closed",
        b"/open/%c0%af",
        b"/open/%E0%80%AE",
        b"/open/%F0%80%80%AE",
    ],
)
def test_what_two_readers_could_take_for_two_paths_is_refused(path: bytes) -> None:
    with pytest.raises(Failure) as failed:
        canonical_path(path)
    assert failed.value.kind is Kind.BAD_PATH
    assert failed.value.status == 400
    assert failed.value.detail


pieces = st.sampled_from(
    b"/ . .. %2e %2E %2f %2F ; %3B a B %41 %25 % // - %5c \\ %00 %C3%A9 %c0%ae ~ * = %7e \xe9 %20".split()
)
paths = st.lists(pieces, max_size=12).map(lambda parts: b"/" + b"".join(parts))


def canonical_or_none(path: bytes, *, keep_slashes: bool = False) -> bytes | None:
    try:
        return canonical_path(path, keep_slashes=keep_slashes)
    except Failure:
        return None


@pytest.mark.parametrize("path", [b"/a%2fb", b"/%2F", b"/q/te%2Fst/get", b"/a/%2f/b", b"/a%2fb/..", b"/x//%2fy"])
def test_an_encoded_slash_is_refused_unless_it_is_kept(path: bytes) -> None:
    with pytest.raises(EncodedSlashError) as failed:
        canonical_path(path)
    assert failed.value.kind is Kind.BAD_PATH
    assert failed.value.public == "an encoded slash (%2F) is not allowed in this path"
    canonical_path(path, keep_slashes=True)


@pytest.mark.parametrize(
    ("path", "canonical"), [(b"/a%2fb", b"/a%2Fb"), (b"/%2F//x%2f", b"/%2F/x%2F"), (b"/a%252fb", b"/a%252fb")]
)
def test_a_kept_slash_separates_nothing(path: bytes, canonical: bytes) -> None:
    assert canonical_path(path, keep_slashes=True) == canonical


def test_a_refusal_names_its_reason_to_the_client() -> None:
    with pytest.raises(Failure) as failed:
        canonical_path(b"/a%5cb")
    assert failed.value.public == "%5c is not allowed in a path"


@given(paths)
def test_a_path_without_encoded_slashes_is_the_same_in_both_ways(path: bytes) -> None:
    canonical, kept = canonical_or_none(path), canonical_or_none(path, keep_slashes=True)
    if canonical is not None:
        assert kept == canonical
    elif kept is not None:
        assert b"%2f" in path.lower()


@given(paths | st.binary(max_size=30).map(lambda tail: b"/" + tail), st.booleans())
def test_the_canonical_form_is_stable_and_hides_nothing(path: bytes, keep: bool) -> None:
    canonical = canonical_or_none(path, keep_slashes=keep)
    if canonical is None:
        return
    assert canonical_path(canonical, keep_slashes=keep) == canonical
    assert b"//" not in canonical
    assert keep or b"%2F" not in canonical
    assert canonical.startswith(b"/")
    assert re.fullmatch(rb"[!-~]*", canonical)
    assert not set(canonical) & set(b"\\?#")
    # No parser finds a dot segment: not in the plain path, not with %2F as a slash, not with parameters removed.
    for read in (canonical, canonical.replace(b"%2F", b"/")):
        for segment in read.split(b"/"):
            assert re.split(rb";|%3B", segment)[0] not in (b".", b"..")
    for escape in re.findall(rb"%(..)", canonical):
        octet = int(escape, 16)
        assert escape == escape.upper()
        assert octet not in UNRESERVED and octet >= 0x20 and octet != 0x5C


def segments_seen(decoded: bytes) -> list[bytes]:
    """Return the segments that a server sees which merges slashes and resolves dot segments after decoding."""
    found: list[bytes] = []
    for segment in decoded.split(b"/"):
        if segment == b"..":
            del found[-1:]
        elif segment not in (b"", b"."):
            found.append(segment)
    return found


@given(paths | st.binary(max_size=30).map(lambda tail: b"/" + tail))
def test_a_service_that_decodes_sees_the_segments_that_were_routed(path: bytes) -> None:
    canonical = canonical_or_none(path)
    if canonical is None:
        return
    routed = [unquote_to_bytes(segment) for segment in canonical.split(b"/") if segment]
    assert segments_seen(unquote_to_bytes(canonical)) == routed


@given(paths)
def test_an_application_sees_the_segments_that_were_routed_also_where_slashes_are_kept(path: bytes) -> None:
    canonical = canonical_or_none(path, keep_slashes=True)
    if canonical is None:
        return
    text = canonical.decode("ascii")
    routed = [decode_path(segment, "latin-1").encode("latin-1") for segment in text.split("/") if segment]
    assert segments_seen(decode_path(text, "latin-1").encode("latin-1")) == routed


@given(st.lists(st.text(alphabet=UNRESERVED.decode() + "!$&'()*+,=:@", min_size=1, max_size=8), max_size=6))
def test_clean_paths_are_themselves(segments: list[str]) -> None:
    clean = [segment for segment in segments if segment not in (".", "..")]
    path = b"/" + "/".join(clean).encode()
    assert canonical_path(path) == path


@given(paths, st.data())
def test_the_spelling_of_escapes_does_not_matter(path: bytes, data: st.DataObject) -> None:
    canonical = canonical_or_none(path)
    if canonical is None:
        return
    # Escaping any unreserved character again, in any case, yields the same path.
    respelt = b"".join(
        (b"%%%02x" if data.draw(st.booleans()) else b"%%%02X") % octet
        if octet in UNRESERVED
        and not canonical[index - 2 : index].startswith(b"%")
        and canonical[index - 1 : index] != b"%"
        and data.draw(st.booleans())
        else bytes((octet,))
        for index, octet in enumerate(canonical)
    )
    assert canonical_path(respelt) == canonical


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("/user/42", "/user/42"),
        ("/a%7eb", "/a~b"),
        ("/café", "/caf%C3%A9"),
        ("/caf%c3%a9", "/caf%C3%A9"),
        ("/a b", "/a%20b"),
        ("/a/./b/../c", "/a/c"),
        ("/*", "/*"),
        ("/user/*", "/user/*"),
        ("/user/4*", "/user/4*"),
        ("/a/../b/*", "/b/*"),
        ("/.*", "/.*"),
        ("/a/%2e*", "/a/.*"),
        ("/é*", "/%C3%A9*"),
        ("/a*b", "/a*b"),
        ("/a**", "/a**"),
        ("//a", "/a"),
        ("/a//*", "/a/*"),
        ("/a%2fb/*", "/a%2Fb/*"),
    ],
)
def test_what_people_write_is_purged_by_in_canonical_form(text: str, canonical: str) -> None:
    assert purged_path(text) == canonical == purged_path(canonical)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a path begins with /"),
        ("*", "a path begins with /"),
        ("user/42", "such as /user/42"),
        ("http://gw/a", "a path begins with /"),
        ("/a?b=1", "leave out '?b=1'"),
        ("/a#b", "leave out '#b'"),
        ("/a%", "invalid % escape"),
        ("/a%4*", "invalid % escape"),
        ("/a\\b", "0x5C"),
        ("/a\nb", "%0A"),
        ("/\udcff\udcc0", None),
        ("/..;x/a", "hidden dot segment"),
    ],
)
def test_what_is_no_path_is_not_purged_by(text: str, said: str | None) -> None:
    if said is None:
        assert purged_path(text) == "/%FF%C0"  # octets of an argument that are not UTF-8
        return
    with pytest.raises(PatternError) as caught:
        purged_path(text)
    assert said in str(caught.value)


@given(paths)
def test_every_requested_path_is_purged_by_itself_and_by_its_prefixes(path: bytes) -> None:
    try:
        canonical = canonical_path(path).decode("ascii")
    except Failure:
        return
    assert canonical.endswith("*") or purged_path(canonical) == canonical
    for end in range(1, len(canonical) + 1):
        if "%" not in canonical[end - 2 : end]:
            assert purged_path(canonical[:end] + "*") == canonical[:end] + "*"


@given(st.text(alphabet="ab./", max_size=20))
def test_dot_segments_are_removed_as_rfc_3986_does_it(tail: str) -> None:
    path = "/" + tail
    # Reference: the algorithm of §5.2.4, literally, after slashes are merged.
    rest, output = re.sub("//+", "/", path), ""
    while rest:
        if rest.startswith("/./"):
            rest = rest[2:]
        elif rest == "/.":
            rest = "/"
        elif rest.startswith("/../"):
            rest, output = rest[3:], output[: max(output.rfind("/"), 0)]
        elif rest == "/..":
            rest, output = "/", output[: max(output.rfind("/"), 0)]
        else:
            end = rest.find("/", 1)
            end = len(rest) if end < 0 else end
            output, rest = output + rest[:end], rest[end:]
    assert canonical_path(path.encode()) == output.encode()


@pytest.mark.parametrize(
    ("text", "names", "shape"),
    [
        ("/", (), "/"),
        ("/user/{user_id}", ("user_id",), "/user/{}"),
        ("/{a}/x/{_b2}/", ("a", "_b2"), "/{}/x/{}/"),
        ("/{rest*}", ("rest",), "/{*}"),
        ("/files/{name*}", ("name",), "/files/{*}"),
        ("/a:b/c;d=1/e", (), "/a:b/c;d=1/e"),
        ("/caf%C3%A9/a%2Fb", (), "/caf%C3%A9/a%2Fb"),
    ],
)
def test_patterns_are_parsed(text: str, names: tuple[str, ...], shape: str) -> None:
    pattern = Pattern.parse(text)
    assert str(pattern) == text
    assert pattern.names == names
    assert pattern.shape == shape


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user", "write '/user'"),
        ("", "write '/'"),
        ("/{a", "a parameter must be a whole segment"),
        ("/x{a}", "a parameter must be a whole segment"),
        ("/{a}{b}", "a parameter must be a whole segment"),
        ("/{}", "a parameter's name"),
        ("/{1a}", "a parameter's name"),
        ("/{a b}", "a parameter's name"),
        ("/{r*}/x", "write {r} for one segment"),
        ("/{a}/{a}", "found {a} twice"),
        ("/{a}/{a*}", "found {a} twice"),
        ("/*", "{rest*} for the rest"),
        ("/<int:id>", "written {id}"),
        ("/é", "write '%C3%A9'"),
        ("/a b", "write 'a%20b'"),
        ("/a%zz", "write 'a%25zz'"),
        ("/a?x=1", "a path ends before '?'"),
        ("/a#x", "a path ends before '#'"),
        ("/a/../b", "write '/b'"),
        ("/./b", "write '/b'"),
        ("//b", "write '/b'"),
        ("//{b}//{c*}", "write '/{b}/{c*}'"),
        ("/%41", "write '/A'"),
        ("/a%2fb", "write '/a%2Fb'"),
        ("/a%00", "%00 is not allowed"),
        ("/..;x", "hidden dot segment"),
        ("/a" * (MAX_SEGMENTS + 1), f"found {MAX_SEGMENTS + 1} segments"),
    ],
)
def test_bad_patterns_say_what_to_write(text: str, said: str) -> None:
    with pytest.raises(PatternError) as failed:
        Pattern.parse(text)
    assert said in str(failed.value)
    suggestion = re.search(r"write '(.*)'$", str(failed.value))
    if suggestion:
        better = suggestion.group(1)
        Pattern.parse(better if better.startswith("/") else "/" + better)


@pytest.mark.parametrize(
    ("text", "params", "path"),
    [
        ("/", {}, b"/"),
        ("/internal/{user_id}", {"user_id": b"42"}, b"/internal/42"),
        ("/v{n}/x", {"n": b"2"}, b"/v2/x"),
        ("/{a}-{b}.json", {"a": b"1", "b": b"2"}, b"/1-2.json"),
        ("/a%20b/{a}", {"a": b"%2F"}, b"/a%20b/%2F"),
        ("/{a}/{a}", {"a": b"x"}, b"/x/x"),
        ("/x", {"unused": b"1"}, b"/x"),
    ],
)
def test_templates_are_filled_with_raw_parameters(text: str, params: dict[str, bytes], path: bytes) -> None:
    assert Template(text).fill(params) == path


def test_a_rest_parameter_brings_its_slashes() -> None:
    template = Template("/v2/{rest}", frozenset({"rest"}))
    assert template.fill({"rest": b"a/b//c"}) == b"/v2/a/b//c"
    assert template.fill({"rest": b""}) == b"/v2/"


def test_a_missing_parameter_is_an_error() -> None:
    with pytest.raises(KeyError):
        Template("/{a}").fill({})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x/{a}", "write '/x/{a}'"),
        ("/{a*}", "write {a} here"),
        ("/{a", "a lone brace"),
        ("/a}", "a lone brace"),
        ("/{1}", "a parameter's name"),
        ("/.{a}", "not dots alone"),
        ("/{a}..", "not dots alone"),
        ("/{a}?x", "next to a parameter, only letters, digits"),
        ("/{a}%2F.", "next to a parameter, only letters, digits"),
        ("/x?y={a}", "next to a parameter, only letters, digits"),
        ("/x?y=1", "a path ends before '?'"),
        ("/a/../{a}", "write '/x'"),
        ("/x{r}", "must be a whole segment"),
        ("/{r}.json", "must be a whole segment"),
        ("/{r}/x", "must come last"),
        ("/{r}/", "must come last"),
    ],
)
def test_bad_templates_say_why(text: str, said: str) -> None:
    with pytest.raises(PatternError) as failed:
        Template(text, frozenset({"r"}))
    assert said in str(failed.value)


affixes = st.sampled_from(["", "x", "v1-", ".json", "a.", "~"])


@given(paths, st.lists(st.tuples(affixes, affixes), min_size=1, max_size=4))
def test_no_parameter_can_change_the_shape_of_a_template(path: bytes, around: list[tuple[str, str]]) -> None:
    canonical = canonical_or_none(path)
    if canonical is None:
        return
    values = [segment for segment in canonical.split(b"/") if segment]
    text = "".join(f"/{before}{{p{index}}}{after}" for index, (before, after) in enumerate(around))
    params = {f"p{index}": values[index % len(values)] if values else b"v" for index in range(len(around))}
    filled = Template(text).fill(params)
    assert filled.count(b"/") == len(around)
    assert b"?" not in filled and b"#" not in filled
    # The forwarded path is canonical: no dot segment has emerged, and no part is ambiguous.
    assert canonical_path(filled) == filled


@pytest.mark.parametrize("path", [b"/", b"/user/1", b"/a.b/c.d", b"/v1/files/report.tar.gz", b"/a/b/"])
def test_an_ordinary_path_takes_the_fast_way(path: bytes) -> None:
    assert _CLEAN(path) is not None
    assert canonical_path(path) is path


@pytest.mark.parametrize("path", [b"/.", b"/..", b"//", b"/a//b", b"/a/.b", b"/%41", b"/a\\b", b"/a?b", b"a", b""])
def test_a_path_that_needs_inspection_does_not(path: bytes) -> None:
    assert _CLEAN(path) is None
