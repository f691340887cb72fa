"""The rows of the user's table, a CSV or a Parquet file, read one after the other."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import re
from collections.abc import Iterator, Sequence

from pipeline.data.sources.encodings import ADVICE, encoding_of
from pipeline.data.sources.labels import stripped
from pipeline.data.sources.walk import Place, size_of
from pipeline.errors import DataError

COLUMNS = ("path", "label", "split", "key")
"""Those that are always read; the first two must be there."""

TABLES = (".csv", ".tsv", ".parquet")
MOST_ROWS = 5_000_000
MOST_COLUMNS = 10_000
_MOST_BYTES = 10_000_000_000
_LONGEST_LINE = 1 << 20
_BATCH = 50_000
# No path holds a NUL, and a tab or a line end in a label is seldom meant.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
Row = dict[str, str]


def place(path: Place, number: int) -> str:
    """Where a row of a table stands, for messages."""
    return f"{path}: {'row' if path.suffix.lower() == '.parquet' else 'line'} {number}"


def read_rows(path: Place, others: Sequence[str] = ()) -> Iterator[tuple[int, Row]]:
    """The line of each row, in Parquet its number from 1 on, and its values; what is missing is empty.

    Memory: a batch of rows, whatever the size of the table.

    Args:
        others: columns to read beside `COLUMNS`, in lower case.

    Raises:
        DataError: it is not such a table, has more than `MOST_ROWS` rows or no column `path`, `label` or one of
            `others`; names the file, and the line or row.
    """
    _check_size(path)
    columns = (*COLUMNS, *others)
    rows = _read_parquet(path, columns) if path.suffix.lower() == ".parquet" else _read_csv(path, columns)
    for count, (number, row) in enumerate(rows, 1):
        if count > MOST_ROWS:
            raise DataError(f"{place(path, number)}: a table has at most {MOST_ROWS:,} rows")
        for column, value in row.items():
            if _CONTROL.search(value):
                raise DataError(f"{place(path, number)}: {column} is {value[:80]!r}, which holds a control character")
        yield number, row


def count_rows(path: Place) -> int:
    """About how many rows a table has, for progress; 0 where it cannot be read.

    Raises:
        DataError: it is too large to be read at all.
    """
    _check_size(path)
    if path.suffix.lower() == ".parquet":
        import pyarrow
        import pyarrow.parquet as pq

        try:
            with path.open("rb") as file:
                return int(pq.read_metadata(file).num_rows)
        except (pyarrow.ArrowException, OSError):
            return 0
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _check_size(path: Place) -> None:
    if (size := size_of(path)) > _MOST_BYTES:
        raise DataError(f"{path}: {size // 1_000_000:,} MB; a table has at most {_MOST_BYTES // 1_000_000:,} MB")


def _read_csv(path: Place, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as file, contextlib.ExitStack() as stack:
        encoding, skip = encoding_of(file.read(4))
        file.seek(skip)
        try:
            # Strict: what is not in the encoding is an error with its place.
            text = stack.enter_context(io.TextIOWrapper(file, encoding, newline=""))
            lines = _lines(text, path)
            names, delimiter = _header(next(lines, ""), path, columns)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            for values in reader:
                number = reader.line_num + 1
                if not values:
                    continue
                if len(values) != len(names):
                    found = f"{len(values)} of {len(names)}"
                    raise DataError(f"{place(path, number)}: not as many values as there are columns, {found}")
                row = dict(zip(names, values, strict=True))
                yield number, {column: row.get(column, "") for column in columns}
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: not a CSV file in {encoding.upper()} ({_first_wrong(path, encoding)}); {ADVICE}"
            ) from error
        except csv.Error as error:
            raise DataError(f"{path}: not a CSV file in {encoding.upper()} ({error})") from error


def _lines(file: io.TextIOWrapper, path: Place) -> Iterator[str]:
    """Lines of bounded length: a file without line ends is not read into memory."""
    number = 0
    while line := file.readline(_LONGEST_LINE):
        number += 1
        if "\0" in line:
            raise DataError(
                f"{path}: line {number}: not a CSV file, it holds a NUL (UTF-16 without its mark?); {ADVICE}"
            )
        if len(line) == _LONGEST_LINE:
            raise DataError(f"{path}: line {number}: longer than {_LONGEST_LINE:,} characters")
        yield line


def _first_wrong(path: Place, encoding: str) -> str:
    """The first line that is not in an encoding, and the byte."""
    decoder = codecs.getincrementaldecoder(encoding)()
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                decoder.decode(line)
            except UnicodeDecodeError as error:
                return f"line {number}, byte {start + error.start}: {error.reason}"
            start += len(line)
    return "it ends within a character"


def _header(line: str, path: Place, columns: Sequence[str]) -> tuple[list[str], str]:
    """The names of the columns and what parts them: the one of `,`, `;`, tab and `|` that gives the needed columns."""
    _check_number(path, 1 + max(line.count(d) for d in ",;\t|"))
    found = [([stripped(name) for name in next(csv.reader([line], delimiter=d), [])], d) for d in ",;\t|"]
    for names, delimiter in found:
        plain = [name.lower() for name in names]
        if all(column in plain for column in COLUMNS[:2]):
            _check_columns(path, plain, columns)
            return plain, delimiter
    _check_columns(path, max(found, key=lambda f: len(f[0]))[0], columns)
    raise AssertionError("not reached")


def _read_parquet(path: Place, wanted: Sequence[str]) -> Iterator[tuple[int, Row]]:
    # Here, and not at the top: pyarrow takes long to load, and few tables need it.
    import pyarrow
    import pyarrow.parquet as pq

    try:
        with path.open("rb") as opened:
            file = pq.ParquetFile(opened)
            names = {stripped(name).lower(): name for name in file.schema_arrow.names}
            _check_columns(path, [stripped(name).lower() for name in file.schema_arrow.names], wanted)
            if file.metadata.num_rows > MOST_ROWS:
                raise DataError(f"{path}: {file.metadata.num_rows:,} rows; a table has at most {MOST_ROWS:,}")
            columns = [names[column] for column in wanted if column in names]
            for column in columns:
                kind = file.schema_arrow.field(column).type
                if pyarrow.types.is_nested(kind) or "binary" in str(kind):
                    raise DataError(f"{path}: column {column!r} is of type {kind}; allowed: text and numbers")
            number = 0
            for batch in file.iter_batches(_BATCH, columns=columns):
                batch.validate(full=True)  # text that is not UTF-8
                for values in batch.to_pylist():
                    number += 1
                    row = {column: values.get(names.get(column, "")) for column in wanted}
                    yield number, {column: _text(value) for column, value in row.items()}
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: not a Parquet file that can be read ({' '.join(str(error).split())[:300]})"
        ) from error


def _check_columns(path: Place, names: Sequence[str], wanted: Sequence[str]) -> None:
    _check_number(path, len(names))
    for column in wanted:
        if names.count(column) > 1 or (names.count(column) == 0 and column not in COLUMNS[2:]):
            there = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise DataError(f"{path}: expected one column {column!r}; its columns are: {there}")


def _check_number(path: Place, num_columns: int) -> None:
    if num_columns > MOST_COLUMNS:
        raise DataError(f"{path}: {num_columns:,} columns; a table has at most {MOST_COLUMNS:,}")


def _text(value: object) -> str:
    # A label that is missing is None or, from a column of numbers, NaN.
    if value is None or value != value:
        return ""
    # And then the others are floats: class 3 of such a column is 3, as it is without a gap.
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)
