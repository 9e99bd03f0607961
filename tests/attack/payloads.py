"""Smuggling table: known and conceivable ways to make two parsers in a chain see different requests.

Every payload contains a complete request for ``/smuggled`` in a place where a parser conforming to RFC 9112 sees no
request: in a body, in a field, after an ambiguity. From a refused payload nothing reaches the upstream; from a legal
one exactly one request does, and the connection remains synchronized.
"""

from __future__ import annotations

from typing import NamedTuple

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: gw\r\n\r\n"
REFUSED = (400, 501)


class Payload(NamedTuple):
    """``raw`` is sent on one connection; ``statuses`` are the allowed refusals, empty for a legal payload."""

    raw: bytes
    statuses: tuple[int, ...] = ()


def post(*lines: bytes, body: bytes = b"", line: bytes = b"POST /first HTTP/1.1") -> bytes:
    """Build a request with a Host, these field lines and this body."""
    return b"\r\n".join([line, b"Host: gw", *lines]) + b"\r\n\r\n" + body


def refused(*lines: bytes, body: bytes = b"0\r\n\r\n" + SMUGGLED, line: bytes = b"POST /first HTTP/1.1") -> Payload:
    """Build a request that must be refused."""
    return Payload(post(*lines, body=body, line=line), REFUSED)


def chunked(body: bytes) -> Payload:
    """Build a chunked body that must be refused: the rest of it would be the smuggled request."""
    return Payload(post(CHUNKED, body=body), (400,))


def legal(*lines: bytes, body: bytes = b"", line: bytes = b"POST /first HTTP/1.1") -> Payload:
    """Build a request that is forwarded as a single request."""
    return Payload(post(*lines, body=body, line=line))


CHUNKED = b"Transfer-Encoding: chunked"
HIDDEN = b"%x\r\n%b\r\n0\r\n\r\n" % (len(SMUGGLED), SMUGGLED)  # as chunked: one body; with a length of 0: a request
LENGTH = b"Content-Length: %d" % (len(SMUGGLED) + 5)  # covers "0 CRLF CRLF" and the smuggled request
COUNTED = b"Content-Length: %d" % len(SMUGGLED)

TRANSFER_ENCODINGS = {
    "identity": b"Transfer-Encoding: identity",
    "gzip": b"Transfer-Encoding: gzip",
    "gzip, chunked": b"Transfer-Encoding: gzip, chunked",
    "chunked, gzip": b"Transfer-Encoding: chunked, gzip",
    "chunked, identity": b"Transfer-Encoding: chunked, identity",
    "chunked twice": b"Transfer-Encoding: chunked, chunked",
    "x-chunked": b"Transfer-Encoding: xchunked",
    "quoted": b'Transfer-Encoding: "chunked"',
    "in single quotes": b"Transfer-Encoding: 'chunked'",
    "a parameter": b"Transfer-Encoding: chunked;q=1.0",
    "semicolon": b"Transfer-Encoding: chunked;",
    "vertical tab": b"Transfer-Encoding:\x0bchunked",
    "form feed": b"Transfer-Encoding: chunked\x0c",
    "NUL": b"Transfer-Encoding: chunked\0",
    "no-break space": b"Transfer-Encoding:\xa0chunked",
    "Kelvin sign": "Transfer-Encoding: chun\u212aed".encode(),
    "empty": b"Transfer-Encoding:",
    "bare CR": b"Transfer-Encoding: chunked\r",
    "bare CR inside": b"X: y\rTransfer-Encoding: chunked",
    "bare LF before": b"X: y\nTransfer-Encoding: chunked",
    "bare LF after": b"Transfer-Encoding: chunked\nX: y",
    "space before the colon": b"Transfer-Encoding : chunked",
    "tab before the colon": b"Transfer-Encoding\t: chunked",
    "NUL in the name": b"Transfer\0-Encoding: chunked",
    "leading space": b" Transfer-Encoding: chunked",
    "leading tab": b"\tTransfer-Encoding: chunked",
    "folded": b"Transfer-Encoding:\r\n chunked",
    "folded by a tab": b"Transfer-Encoding: x,\r\n\tchunked",
    "no colon": b"Transfer-Encoding chunked",
    "two colons": b"Transfer-Encoding:: chunked",
    "a colon before": b": Transfer-Encoding: chunked",
    "two lines": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    "two different lines": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
}

LENGTHS = {
    "plus": b"Content-Length: +%d",
    "minus": b"Content-Length: -%d",
    "hexadecimal": b"Content-Length: 0x%x",
    "underscore": b"Content-Length: 0_%d",
    "fraction": b"Content-Length: %d.0",
    "exponent": b"Content-Length: %de0",
    "a blank inside": b"Content-Length: %d 0",
    "a comma": b"Content-Length: %d,",
    "a list": b"Content-Length: %d, 0",
    "a list of equals": b"Content-Length: %d, %d",
    "two lines": b"Content-Length: %d\r\nContent-Length: 0",
    "two equal lines": b"Content-Length: %d\r\nContent-Length: %d",
    "empty and one": b"Content-Length:\r\nContent-Length: %d",
    "quoted": b'Content-Length: "%d"',
    "folded": b"Content-Length:\r\n %d",
    "space before the colon": b"Content-Length : %d",
    "too large for 64 bits": b"Content-Length: 184467440737095516%d",
    "a NUL after": b"Content-Length: %d\0",
    "other digits": b"Content-Length: " + "٣٥".encode(),
}


def _length(form: bytes) -> bytes:
    return form % ((len(SMUGGLED),) * form.count(b"%"))


CHUNKS = {
    "size with 0x": b"0x0\r\n\r\n",
    "size with a plus": b"+0\r\n\r\n",
    "size with a minus": b"-0\r\n\r\n",
    "size with an underscore": b"0_0\r\n\r\n",
    "a blank before the size": b" 0\r\n\r\n",
    "a blank after the size": b"0 \r\n\r\n",
    "size with an h": b"0h\r\n\r\n",
    "no size": b"\r\n\r\n",
    "no size but an extension": b";a=b\r\n\r\n",
    "size ended by LF": b"0\n\r\n",
    "size ended by CR": b"0\r\r\n\r\n",
    "last line by LF": b"0\r\n\n",
    "size over 64 bits": b"10000000000000000\r\n\r\n",
    "chunk longer than its size": b"1\r\nabc\r\n0\r\n\r\n",
    "chunk shorter than its size": b"3\r\na\r\n0\r\n\r\n",
    "chunk ended by LF": b"1\r\na\n0\r\n\r\n",
    "chunk ended by CR": b"1\r\na\r0\r\n\r\n",
    "chunk with no end": b"1\r\na0\r\n\r\n",
    "extension with LF": b"0;a\nb\r\n\r\n",
    "extension with CR": b"0;a\rb\r\n\r\n",
    "extension with NUL": b"0;a=\0\r\n\r\n",
    "extension of a lone quote": b'0;a="\r\n\r\n',
    "trailer with a space in its name": b"0\r\nX Y: z\r\n\r\n",
    "trailer folded": b"0\r\nX: y\r\n z\r\n\r\n",
    "trailer that frames": b"0\r\nContent-Length: 0\r\n\r\n",
    "trailer that codes": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "trailer with LF": b"0\r\nX: y\nZ: z\r\n\r\n",
    "trailer that is a Host": b"0\r\nHost: other\r\n\r\n",
}

PAYLOADS: dict[str, Payload] = {
    "CL.TE": refused(LENGTH, CHUNKED),
    "TE.CL": refused(CHUNKED, b"Content-Length: 4", body=HIDDEN),
    "TE.CL, of length 0": refused(CHUNKED, b"Content-Length: 0", body=HIDDEN),
    "TE.TE": refused(CHUNKED, b"Transfer-Encoding: x"),
    **{f"TE {name}, and CL": refused(line, LENGTH) for name, line in TRANSFER_ENCODINGS.items()},
    **{f"TE {name}": refused(line) for name, line in TRANSFER_ENCODINGS.items()},
    **{f"CL {name}": refused(_length(form), body=SMUGGLED) for name, form in LENGTHS.items()},
    **{f"chunk: {name}": chunked(body + SMUGGLED) for name, body in CHUNKS.items()},
    # framing of the head itself
    "bare LF throughout": Payload(b"POST /first HTTP/1.1\nHost: gw\nContent-Length: 0\n\n" + SMUGGLED, REFUSED),
    "LF as the blank line": Payload(b"POST /first HTTP/1.1\r\nHost: gw\r\n\n" + SMUGGLED, REFUSED),
    "CR as the blank line": Payload(b"POST /first HTTP/1.1\r\nHost: gw\r\n\r" + SMUGGLED, REFUSED),
    "CR CR LF": refused(b"Content-Length: 0\r", body=SMUGGLED),
    "a request in a field after LF": refused(b"X: y\n\nGET /smuggled HTTP/1.1\nHost: gw\n", body=b""),
    "first line folded": Payload(b"POST /first HTTP/1.1\r\n Host: gw\r\n" + CHUNKED + b"\r\n\r\n0\r\n\r\n", REFUSED),
    "two blank lines before": Payload(b"\r\n\r\n" + post(LENGTH, body=b"0\r\n\r\n" + SMUGGLED), REFUSED),
    "a field with no name": refused(b": y", COUNTED, body=SMUGGLED),
    "a field of control bytes": refused(b"X: \x01\x1f", COUNTED, body=SMUGGLED),
    "a DEL in a field": refused(b"X: \x7f", COUNTED, body=SMUGGLED),
    "a name of other letters": refused("Tränsfer-Encoding: chunked".encode()),
    "a name in brackets": refused(b"[Transfer-Encoding]: chunked"),
    # the request line
    "two blanks in the line": refused(COUNTED, body=SMUGGLED, line=b"POST  /first HTTP/1.1"),
    "a tab in the line": refused(COUNTED, body=SMUGGLED, line=b"POST\t/first HTTP/1.1"),
    "a blank in the target": refused(COUNTED, body=SMUGGLED, line=b"POST /first /smuggled HTTP/1.1"),
    "a blank after the line": refused(COUNTED, body=SMUGGLED, line=b"POST /first HTTP/1.1 "),
    "a version after the version": refused(COUNTED, body=SMUGGLED, line=b"POST /first HTTP/1.1 HTTP/1.0"),
    "a NUL in the target": refused(COUNTED, body=SMUGGLED, line=b"POST /fir\0st HTTP/1.1"),
    "bare CR in the line": refused(COUNTED, body=SMUGGLED, line=b"POST /first\rHTTP/1.1"),
    "LF in the target": refused(COUNTED, body=SMUGGLED, line=b"POST /first\nX: HTTP/1.1"),
    "a fragment": refused(COUNTED, body=SMUGGLED, line=b"POST /first#/smuggled HTTP/1.1"),
    "a backslash": refused(COUNTED, body=SMUGGLED, line=b"POST \\first HTTP/1.1"),
    "lower-case http": refused(COUNTED, body=SMUGGLED, line=b"POST /first http/1.1"),
    "version 1.10": refused(COUNTED, body=SMUGGLED, line=b"POST /first HTTP/1.10"),
    "version 2.0": Payload(post(COUNTED, body=SMUGGLED, line=b"POST /first HTTP/2.0"), (400, 501, 505)),
    "HTTP/0.9": Payload(b"GET /first\r\n\r\n" + SMUGGLED, REFUSED),
    "the HTTP/2 preface": Payload(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED, (400, 501, 505)),
    "CONNECT": refused(line=b"CONNECT gw:80 HTTP/1.1", body=SMUGGLED),
    "TRACE with a body": refused(COUNTED, line=b"TRACE /first HTTP/1.1", body=SMUGGLED),
    # the Host
    "two Hosts": refused(b"Host: other", COUNTED, body=SMUGGLED),
    "two equal Hosts": refused(b"Host: gw", COUNTED, body=SMUGGLED),
    "no Host": Payload(b"POST /first HTTP/1.1\r\n" + COUNTED + b"\r\n\r\n" + SMUGGLED, REFUSED),
    "a path in the Host": Payload(b"POST /first HTTP/1.1\r\nHost: gw/x\r\n\r\n" + SMUGGLED, REFUSED),
    "userinfo in the Host": Payload(b"POST /first HTTP/1.1\r\nHost: a@gw\r\n\r\n" + SMUGGLED, REFUSED),
    "userinfo in the target": refused(COUNTED, body=SMUGGLED, line=b"POST http://a@gw/first HTTP/1.1"),
    "absolute-form of another scheme": refused(COUNTED, body=SMUGGLED, line=b"POST file://gw/first HTTP/1.1"),
    # HTTP/1.0
    "TE in HTTP/1.0": refused(CHUNKED, b"Connection: keep-alive", line=b"POST /first HTTP/1.0"),
    "CL and TE in HTTP/1.0": refused(LENGTH, CHUNKED, line=b"POST /first HTTP/1.0"),
    # expectations
    "an unknown expectation": Payload(post(b"Expect: other", COUNTED, body=SMUGGLED), (400, 417)),
    "a broken Expect": Payload(post(b"Expect: 100-continue\x0b", COUNTED, body=SMUGGLED), (400, 417)),
    # legal, one request each
    "a body that is a request": legal(COUNTED, body=SMUGGLED),
    "a chunk that is a request": legal(CHUNKED, body=HIDDEN),
    "TE in capitals": legal(b"TRANSFER-ENCODING: CHUNKED", body=HIDDEN),
    "TE between tabs": legal(b"Transfer-Encoding:\t chunked \t", body=HIDDEN),
    "TE with empty members": legal(b"Transfer-Encoding: , chunked ,", body=HIDDEN),
    "chunk size in capitals with zeros": legal(CHUNKED, body=b"000A\r\n0123456789\r\n" + HIDDEN),
    "chunk extensions": legal(CHUNKED, body=b'1;a=b;c="d\\"e;\t"\r\nx\r\n' + HIDDEN),
    "a trailer": legal(CHUNKED, b"Trailer: X", body=HIDDEN[:-2] + b"X: y\r\n\r\n"),
    "a trailer that looks like a request": legal(CHUNKED, body=HIDDEN[:-2] + b"GET: /smuggled HTTP/1.1\r\n\r\n"),
    "a fat GET": legal(COUNTED, body=SMUGGLED, line=b"GET /first HTTP/1.1"),
    "a fat GET, chunked": legal(CHUNKED, body=HIDDEN, line=b"GET /first HTTP/1.1"),
    "a fat DELETE": legal(COUNTED, body=SMUGGLED, line=b"DELETE /first HTTP/1.1"),
    "a fat HEAD": legal(COUNTED, body=SMUGGLED, line=b"HEAD /first HTTP/1.1"),
    "Expect with its body at once": legal(b"Expect: 100-continue", COUNTED, body=SMUGGLED),
    "Connection names the length": legal(b"Connection: content-length", COUNTED, body=SMUGGLED),
    "Connection names the coding": legal(b"Connection: transfer-encoding", CHUNKED, body=HIDDEN),
    "Connection names the Host": legal(b"Connection: host", COUNTED, body=SMUGGLED),
    "Upgrade to h2c with a body": legal(
        *(b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAAP__", COUNTED),
        body=SMUGGLED,
    ),
    "Upgrade with a body": legal(b"Connection: Upgrade", b"Upgrade: other", COUNTED, body=SMUGGLED),
    "absolute-form beside another Host": legal(COUNTED, body=SMUGGLED, line=b"POST http://other/first HTTP/1.1"),
    "a length in HTTP/1.0": legal(b"Connection: keep-alive", COUNTED, body=SMUGGLED, line=b"POST /first HTTP/1.0"),
    "a request escaped in the query": legal(
        COUNTED, body=SMUGGLED, line=b"POST /first?x=%20HTTP/1.1%0d%0a%0d%0aGET%20/smuggled HTTP/1.1"
    ),
    "a framing field of another name": legal(b"Transfer_Encoding: chunked", COUNTED, body=SMUGGLED),
    "a length of another name": legal(b"Content_Length: 0", COUNTED, body=SMUGGLED),
    "a length with zeros": legal(b"Content-Length: 000%d" % len(SMUGGLED), body=SMUGGLED),
    "a blank line before": Payload(b"\r\n" + post(COUNTED, body=SMUGGLED)),
}
