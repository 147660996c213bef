"""Which encoding a text file has: told by its BOM, by its NULs, by being UTF-8, or by letters that one reading explains.

The last is our own: charset-normalizer 3.5 reads Spanish in Windows-1252 as Windows-1250 or Johab and Croatian in
ISO-8859-2 as Windows-1252. Here a reading is taken only where every other one has letters that do not belong.
"""

from __future__ import annotations

import codecs
import io
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

CHUNK = 1 << 20
ONE_BYTE = {
    "cp1252": "WINDOWS-1252",
    "cp1250": "WINDOWS-1250",
    "iso8859_2": "ISO-8859-2",
    "iso8859_15": "ISO-8859-15",
    "mac_roman": "MACINTOSH",
    "mac_latin2": "MAC-CENTRALEUROPE",
    "cp852": "CP852",
    "cp850": "CP850",
    "cp437": "CP437",
}
"""Encodings with one byte a sign, as Python names them and as iconv does."""
TAKEN = ("cp1252", "cp1250", "iso8859_2")
"""Those that are read; the others are named, with the command that makes UTF-8 of them."""
LETTERS = {"english": "éäöü", "croatian": "čćđšžéäöü", "spanish": "áéíóúñüäö¿¡ºª"}
"""Signs beyond ASCII that rows in a language may have; the few of well-known brands among them."""
OF_BRANDS = "àâãåæçèêëìîïðòôõøùûœčćđšžęłśźőűřěůňťďĺăŕ"
MARKS = "’‘“”„«»–—…•¿¡ºª\xa0"
PARTNERS = dict(zip("“”„«»‘", ("”„", "“„", "“”", "»", "«", "’"), strict=True))
"""Quotes, each with those of which one is somewhere in the file too."""
SIGNS = "©®™€£§×½¼¾²³"
BRAND, FOREIGN, ODD, NO_LETTER = 3, 6, 9, 12  # what a sign costs that does not belong
MOST, MARGIN = 6, 6  # what the best reading may cost, and how much more the next one has to
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")


@dataclass(frozen=True)
class Charset:
    """A codec, how it treats broken bytes, and its name for people, empty for plain UTF-8."""

    codec: str
    errors: str = "strict"
    name: str = ""

    def open(self, data: bytes) -> io.TextIOWrapper:
        """The text; its lines end with \\n, \\r\\n or \\r and nothing else, and each end is read as \\n."""
        return io.TextIOWrapper(io.BytesIO(data), encoding=self.codec, errors=self.errors, newline=None)


def detect(data: bytes, path: Path) -> Charset:
    """The encoding of a file's bytes. Bytes that UTF-8 does not have are read as U+DC80 to U+DCFF, where the rest is UTF-8.

    Raises ValueError naming the readings and the way out, where none is clearly right.
    """
    codec = json.detect_encoding(data[:4])  # by the BOM, else by the NULs of a first ASCII sign
    if codec == "utf-8-sig":
        return Charset(codec, "surrogateescape", "UTF-8 with BOM")
    if codec != "utf-8":
        family, _, order = codec.removeprefix("utf-").partition("-")
        bom = not order
        order = order or ("le" if data[:2] == b"\xff\xfe" else "be")
        return Charset(codec, "replace", f"UTF-{family} {order.upper()} {'with' if bom else 'without'} BOM")
    if data.isascii() or _mostly_utf8(data):
        return Charset("utf-8", "surrogateescape")
    return _one_byte(data, path)


def _mostly_utf8(data: bytes) -> bool:
    """Whether data is UTF-8, or has UTF-8 beside other bytes, or is cut within a sign at its end."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), CHUNK):
            decoder.decode(data[start : start + CHUNK])
    except UnicodeDecodeError:
        return _UTF8.search(data) is not None
    return True


def _one_byte(data: bytes, path: Path) -> Charset:
    languages = [name for name in LETTERS if name.encode() in data] or list(LETTERS)
    expected = {letter for name in languages for letter in LETTERS[name] + LETTERS[name].upper()}
    windows = sorted(_windows(data))
    readings: dict[tuple[str, ...], str] = {}
    for codec in ONE_BYTE:
        signs = [bytes([byte]).decode(codec, "replace") for byte in range(256)]
        readings.setdefault(tuple("".join(signs[byte] for byte in window) for window in windows), codec)
    ranked = sorted((_cost(reading, expected), at, reading) for at, reading in enumerate(readings))
    (best, _, first), (next_best, _, second) = ranked[:2]
    codec, other = readings[first], readings[second]
    if best > MOST:
        raise ValueError(
            "neither UTF-8 nor an encoding that is known here; save it as UTF-8 where it was made"
        )
    way_out = f"save it as UTF-8, such as: {_iconv(ONE_BYTE[codec], path)}"
    at = next(i for i, (one, two) in enumerate(zip(first, second, strict=True)) if one != two)
    one, two = (_word(data, windows[at]).decode(name, "replace") for name in (codec, other))
    if next_best < best + MARGIN:
        raise ValueError(
            f"not UTF-8, and {one!r} if it is {ONE_BYTE[codec]}, {two!r} if it is {ONE_BYTE[other]}; {way_out}"
        )
    if codec not in TAKEN:
        raise ValueError(f"not UTF-8 but {ONE_BYTE[codec]}, as it seems by {one!r}; {way_out}")
    return Charset(codec, name=ONE_BYTE[codec])


def _windows(data: bytes) -> set[bytes]:
    """Every byte beyond ASCII, between the two beside it; an escaped line end, as JSON has it, counts as blank."""
    beyond = re.compile(rb"(?s)(?=(.[\x80-\xff].))")
    found: set[bytes] = set()
    for start in range(0, len(data), CHUNK):
        piece = (
            (data[max(start - 1, 0) : start] or b" ")
            + data[start : start + CHUNK]
            + (data[start + CHUNK : start + CHUNK + 1] or b" ")
        )
        found.update(match[1] for match in beyond.finditer(re.sub(rb"\\[nrt]", b"  ", piece)))
    return found


def _word(data: bytes, window: bytes) -> bytes:
    """The first word that has such a window."""
    at = data.find(window[1:])
    at = at if at >= 0 else data.find(window[1:2])
    head = re.search(rb"[a-zA-Z\x80-\xff]*$", data[max(0, at - 20) : at])
    tail = re.match(rb".[a-zA-Z\x80-\xff]*", data[at : at + 20])
    return (head[0] if head else b"") + (tail[0] if tail else b"")


def _cost(reading: tuple[str, ...], expected: set[str]) -> int:
    """How little a reading looks like rows: 0 for the languages' own letters, summed over the distinct signs."""
    costs: dict[str, int] = {}
    for window in reading:
        costs[window[1]] = max(costs.get(window[1], 0), _sign_cost(window[0], window[1], window[2], expected))
    alone = [sign for sign in costs if not costs.keys() & {*PARTNERS.get(sign, sign)}]
    return sum(costs.values()) + FOREIGN * len(alone)


def _sign_cost(before: str, sign: str, after: str, expected: set[str]) -> int:
    within = before.isalpha() and after.isalpha()
    if sign in MARKS:
        foreign = sign in LETTERS["spanish"] and sign not in expected
        return ODD if foreign or (within and sign not in "’\xa0") else 0
    if sign in SIGNS:
        return ODD if after.isalpha() or (before.isalpha() and sign not in "©®™") else 0
    if sign == "°":
        return ODD if before.isalpha() else 0
    if not sign.isalpha():
        return NO_LETTER
    camel = (sign.isupper() and before.islower()) or (sign.islower() and before.isupper() and after.isupper())
    if camel or before.isdigit() or (within and not before.isascii() and not after.isascii()):
        return ODD
    return 0 if sign in expected else BRAND if sign.lower() in OF_BRANDS else FOREIGN


def _iconv(name: str, path: Path) -> str:
    old, new = shlex.quote(str(path)), shlex.quote(f"{path}.utf8")
    return f"iconv -f {name} -t UTF-8 {old} > {new} && mv {new} {old}"
