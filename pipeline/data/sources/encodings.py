"""Text files of others: UTF-8, or UTF-16 and UTF-32 with a byte order mark. Nothing is guessed."""

from __future__ import annotations

import codecs

# UTF-32's mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def encoding_of(start: bytes) -> tuple[str, int]:
    """The encoding of a file by its first four bytes, and how many of them are the byte order mark."""
    return next(((name, len(mark)) for mark, name in _MARKS if start.startswith(mark)), ("utf-8", 0))


def decode_text(data: bytes) -> str:
    """The text of a file's bytes, without a byte order mark.

    Raises:
        ValueError: it is in another encoding, or not a text; names the byte.
    """
    encoding, skip = encoding_of(data[:4])
    try:
        text = data[skip:].decode(encoding)
    except UnicodeDecodeError as error:
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        raise ValueError(f"not a text in {name} (byte {skip + error.start}: {error.reason}); {ADVICE}") from error
    if (nul := text.find("\0")) >= 0:
        raise ValueError(f"not a text, or UTF-16 without its mark (character {nul} is NUL); {ADVICE}")
    return text


ADVICE = "save it as UTF-8"
