"""The encoding of a text file: by its BOM, its NULs, by being UTF-8, or by letters that only one encoding explains.

The last is ours: charset-normalizer 3.5 reads Spanish in Windows-1252 as Windows-1250 or Johab, and Croatian in
ISO-8859-2 as Windows-1252. Here an encoding is taken only if every other one gives letters that do not belong.
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
"""Encodings of one byte a character: Python's name and iconv's."""
READ = ("cp1252", "cp1250", "iso8859_2")
"""Those that are read; for the others an error names the command that converts to UTF-8."""
LETTERS = {"english": "éäöü", "croatian": "čćđšžéäöü", "spanish": "áéíóúñüäö¿¡ºª"}
"""Characters beyond ASCII that rows of a language may have, a few of well-known brands included."""
BRAND_LETTERS = "àâãåæçèêëìîïðòôõøùûœčćđšžęłśźőűřěůňťďĺăŕ"
MARKS = "’‘“”„«»–—…•¿¡ºª\xa0"
PARTNERS = dict(zip("“”„«»‘", ("”„", "“„", "“”", "»", "«", "’"), strict=True))
"""Quotes, each with those of which one must occur too."""
SIGNS = "©®™€£§×½¼¾²³"
BRAND, FOREIGN, ODD, NO_LETTER = 3, 6, 9, 12  # costs of characters that do not belong
MOST, MARGIN = 6, 6  # highest cost of the best encoding, and how much more the next one must cost
_UTF8 = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_WINDOW = re.compile(rb"(?s)(?=(.[\x80-\xff].))")


@dataclass(frozen=True)
class Charset:
    """A codec, how it treats broken bytes, and its name for people (empty for plain UTF-8)."""

    codec: str
    errors: str = "strict"
    name: str = ""

    def open(self, data: bytes) -> io.TextIOWrapper:
        """The text; lines end with \\n, \\r\\n or \\r only, and each end is read as \\n."""
        return io.TextIOWrapper(io.BytesIO(data), encoding=self.codec, errors=self.errors, newline=None)


def detect(data: bytes, path: Path) -> Charset:
    """The encoding of a file's bytes; broken bytes within UTF-8 are read as U+DC80 to U+DCFF.

    Raises ValueError naming the candidates and a way out where none is clearly right.
    """
    codec = json.detect_encoding(data[:4])  # by the BOM, else by the NULs of a first ASCII character
    if codec == "utf-8-sig":
        return Charset(codec, "surrogateescape", "UTF-8 with BOM")
    if codec != "utf-8":
        family, _, order = codec.removeprefix("utf-").partition("-")
        bom = "without" if order else "with"
        order = order or ("le" if data[:2] == b"\xff\xfe" else "be")
        return Charset(codec, "replace", f"UTF-{family} {order.upper()} {bom} BOM")
    if data.isascii() or _mostly_utf8(data):
        return Charset("utf-8", "surrogateescape")
    return _one_byte(data, path)


def _mostly_utf8(data: bytes) -> bool:
    """Whether data is UTF-8, has some beside other bytes, or ends within a character."""
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
    # every byte beyond ASCII between its neighbours; an escaped line end, as JSON has it, counts as blank
    padded = b" " + re.sub(rb"\\[nrt]", b"  ", data) + b" "
    windows = sorted({match[1] for match in _WINDOW.finditer(padded)})
    readings: dict[str, str] = {}
    for codec in ONE_BYTE:
        readings.setdefault(b"".join(windows).decode(codec, "replace"), codec)
    ranked = sorted((_cost(reading, expected), index, reading) for index, reading in enumerate(readings))
    (best, _, first), (next_best, _, second) = ranked[:2]
    if best > MOST:
        raise ValueError("neither UTF-8 nor an encoding known here; save it as UTF-8 where it was made")
    codec, other = readings[first], readings[second]
    name, old, new = ONE_BYTE[codec], shlex.quote(str(path)), shlex.quote(f"{path}.utf8")
    way_out = f"save it as UTF-8, such as: iconv -f {name} -t UTF-8 {old} > {new} && mv {new} {old}"
    window = next(
        window for window, one, two in zip(windows, first[1::3], second[1::3], strict=True) if one != two
    )
    letters = rb"[a-zA-Z\x80-\xff]{0,20}"
    example = re.findall(letters + re.escape(window[1:2]) + letters, data)[0]
    word, other_word = example.decode(codec, "replace"), example.decode(other, "replace")
    if next_best < best + MARGIN or codec not in READ:
        raise ValueError(
            f"not UTF-8, and {word!r} if it is {name}, {other_word!r} if it is {ONE_BYTE[other]}; {way_out}"
        )
    return Charset(codec, name=name)


def _cost(reading: str, expected: set[str]) -> int:
    """How little a reading looks like rows, summed over its characters: 0 for the languages' own letters."""
    costs: dict[str, int] = {}
    for before, sign, after in zip(reading[::3], reading[1::3], reading[2::3], strict=True):
        costs[sign] = max(costs.get(sign, 0), _sign_cost(before, sign, after, expected))
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
    return 0 if sign in expected else BRAND if sign.lower() in BRAND_LETTERS else FOREIGN
