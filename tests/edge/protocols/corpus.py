"""JSON texts made by hand, sound and broken, for all that carries payloads.

Payloads are carried byte for byte.
"""

from __future__ import annotations

import json
import math
from typing import Any

_A_LOT = 30_000

SOUND: dict[str, bytes] = {
    "null": b"null",
    "true": b"true",
    "false": b"false",
    "zero": b"0",
    "minus-zero": b"-0",
    "float-text": b"1.0",
    "float-0.10": b"0.10",
    "exponent": b"1E+2",
    "greatest-double": b"1.7976931348623157e308",
    "as-good-as-the-greatest-double": b"[-1.7976931348623158E+308]",
    "below-doubles": b"[1e-999,-0.1E-99999999999999999999]",
    "zero-with-a-great-exponent": b"0e999",
    "long-mantissa-small-exponent": b"1" * 400 + b"e-100",
    "great-exponent-small-mantissa": b"0." + b"0" * 700 + b"1e1000",
    "beyond-double-in-a-string": b'["1e999",{"1e999":"x,1e999"}]',
    "big-integer": b"18446744073709551617",
    "309-digits": b"9" * 309,
    "309-digits-inside": b'{"n":-' + b"9" * 309 + b"}",
    "310-digits-of-a-fraction": b"0." + b"9" * 310,
    "310-digits-before-an-exponent": b"9" * 310 + b"E-2",
    "310-digits-of-an-exponent": b"1e-" + b"9" * 310,
    "310-digits-in-a-string": b'["x,' + b"9" * 310 + b',\\"",1]',
    "310-digits-in-a-key": b'{",' + b"9" * 310 + b'":1}',
    "many-decimals": b"0." + b"3" * 400,
    "empty-string": b'""',
    "escapes": b'"\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041"',
    "escaped-nul": b'"\\u0000"',
    "escaped-pair": b'"\\ud83d\\ude00"',
    "escaped-pair-upper-case": b'"\\uD83D\\uDE00"',
    "escaped-backslash-then-u": b'"\\\\ud800"',
    "delete-character": b'"\x7f"',
    "utf-8": '"жук 🐛 \u2028\u2029 \ufeff"'.encode(),
    "utf-8-key": '{"ключ":1}'.encode(),
    "highest-code-point": '"\U0010ffff"'.encode(),
    "key-order": b'{"b":1,"a":2,"":3}',
    "duplicate-keys": b'{"a":1,"a":2}',
    "inner-blanks": b'{ "a" :\t[ 1 ,\r2 ] }',
    "carriage-return": b"[1,\r2]",
    "brackets-in-strings": b'["]]]","[[[","{{{","\\"[[["]',
    "html-sql-lua": b'"<script>\' OR 1=1; -- {{x}} %s ${y} \\\\"',
    "nesting-90": b"[" * 90 + b"]" * 90,
    "many-shallow-brackets": b"[" + b"[]," * 5_000 + b"{}]",
    "brackets-in-a-long-string": b'"' + b"[{" * 5_000 + b'"',
}

BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "blank": b" ",
    "word": b"nonsense",
    "nan": b"NaN",
    "minus-nan": b"-NaN",
    "infinity": b"Infinity",
    "minus-infinity": b"-Infinity",
    "nan-inside": b'{"a":[NaN]}',
    "infinity-inside": b"[1,Infinity]",
    "upper-case-true": b"True",
    "cut-null": b"nul",
    "long-null": b"nulll",
    "leading-zero": b"01",
    "leading-zero-inside": b"[[[-01]]]",
    "plus": b"+1",
    "bare-point": b".5",
    "point-without-digits": b"1.",
    "exponent-without-digits": b"1e",
    "exponent-sign-without-digits": b"1e+",
    "hex": b"0x1f",
    "underscore": b"1_000",
    "minus-alone": b"-",
    "single-quotes": b"'a'",
    "string-unended": b'"a',
    "string-ends-in-backslash": b'"a\\',
    "unknown-escape": b'"\\x41"',
    "unknown-escape-inside": b'[{"a":"\\q"}]',
    "unknown-escape-in-key": b'{"\\q":1}',
    "short-unicode-escape": b'"\\u12"',
    "bad-unicode-escape": b'"\\u12G4"',
    "raw-newline-in-string": b'"a\nb"',
    "raw-tab-in-string": b'"a\tb"',
    "raw-carriage-return-in-string": b'"a\rb"',
    "raw-nul-in-string": b'"a\x00b"',
    "nul-after": b"1\x00",
    "high-surrogate": b'"\\ud800"',
    "low-surrogate": b'"\\udc00"',
    "two-high-surrogates": b'"\\ud800\\ud800"',
    "swapped-surrogates": b'"\\ude00\\ud83d"',
    "high-surrogate-then-letter": b'"\\ud83dabcdefgh"',
    "high-surrogate-then-escape": b'"\\ud83d\\n123456"',
    "high-surrogate-then-bmp": b'"\\ud83d\\u0041"',
    "surrogate-inside": b'{"a":["\\udfff"]}',
    "surrogate-in-key": b'{"\\ud800":1}',
    "surrogate-in-utf-8": b'"\xed\xa0\x80"',
    "surrogate-pair-in-utf-8": b'"\xed\xa0\xbd\xed\xb8\x80"',
    "bad-utf-8": b'"\xff"',
    "bad-utf-8-in-key": b'{"\xff":1}',
    "bad-utf-8-inside": b'[["\x80"]]',
    "overlong-utf-8": b'"\xc0\x80"',
    "beyond-unicode": b'"\xf4\x90\x80\x80"',
    "cut-utf-8": b'"\xf0\x9f\x90"',
    "trailing-comma": b"[1,]",
    "trailing-comma-in-object": b'{"a":1,}',
    "leading-comma": b"[,1]",
    "no-comma": b"[1 2]",
    "array-unended": b"[1",
    "array-overended": b"[1]]",
    "object-unended": b'{"a":1',
    "mixed-brackets": b"[1}",
    "key-without-quotes": b"{a:1}",
    "number-as-key": b"{1:1}",
    "key-without-value": b'{"a"}',
    "key-without-value-but-colon": b'{"a":}',
    "two-values": b"1 2",
    "two-objects": b"{}{}",
    "comment": b"/*x*/1",
    "line-comment": b"1//x",
    "no-break-space": b"\xc2\xa01",
    "byte-order-mark": b"\xef\xbb\xbf1",
    "310-digits": b"9" * 310,
    "310-digits-negative": b"-" + b"9" * 310,
    "310-digits-inside": b'{"n":1.' + b"0" * 310 + b',"m":[1,' + b"9" * 310 + b"]}",
    "310-digits-behind-a-string": b'{"a,\\"":' + b"9" * 310 + b"}",
    "5000-digits": b"9" * 5_000,
    "5000-digits-inside": b'{"n":\t' + b"9" * 5_000 + b"\r}",
    "beyond-double": b"1e999",
    "minus-beyond-double": b"[-1e999]",
    "just-beyond-double": b"1.7976931348623159e308",
    "beyond-double-with-plus": b'{"a":[1E+309]}',
    "beyond-double-by-its-mantissa": b"9" * 30 + b"e280",
    "beyond-double-behind-zeros": b"[0." + b"0" * 700 + b"1e1010]",
    "beyond-double-in-an-object": b'{"far":1e999,"near":-1e-999}',
    "310-digits-before-a-point": b"[" + b"9" * 310 + b".0]",
    "309-digits-before-a-point": b"[" + b"9" * 309 + b".5]",
    "310-digits-of-a-great-exponent": b"1e" + b"9" * 310,
    "5000-digits-of-an-exponent": b"1e" + b"9" * 5_000,
    "beyond-double-behind-much-else": b'["' + b"x1e1" * 5_000 + b'",' + b"1.5e3," * 500 + b"1e309]",
    "nesting-arrays": b"[" * _A_LOT + b"]" * _A_LOT,
    "nesting-objects": b'{"a":' * (_A_LOT // 5) + b"1" + b"}" * (_A_LOT // 5),
    "nesting-mixed": b'[{"a":' * 101 + b"1" + b"}]" * 101,
    "nesting-unended": b"[" * _A_LOT,
    "nesting-behind-brackets-in-strings": b'["' + b"]" * 500 + b'",' + b"[" * 500 + b"]" * 501,
}


def strict(text: bytes) -> Any:
    """Parse as strictly as RFC 8259 allows; raises ValueError.

    Numbers come as texts, if clients can read them.
    """

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    def integer(digits: str) -> str:
        if len(digits.lstrip("-")) > 309:
            raise ValueError("too many digits")
        return digits

    def real(number: str) -> str:
        if math.isinf(float(number)):
            raise ValueError("beyond doubles")
        return number

    decoded = text.decode()  # UnicodeDecodeError is a ValueError
    if decoded.startswith("\ufeff"):
        raise ValueError("byte order mark")
    value = json.loads(decoded, parse_constant=refuse, parse_int=integer, parse_float=real)
    json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError: a lone surrogate
    return value
