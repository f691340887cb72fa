"""The oracle of `pipeline.evaluation.oracle`, on this host's disk, wherever run state is."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.config.params import Params
from pipeline.evaluation.oracle import oracle_folder
from pipeline.storage.object_store import Bucket
from pipeline.storage.run_storage import Storage
from pipeline.utils.progress import Log

_LAST = "config.json"


@contextlib.contextmanager
def oracle_at_hand(params: Params, project: Path, storage: Storage, log: Log) -> Iterator[tuple[str, Path]]:
    """Name in the storage, and folder on this host, of the oracle's artifact; it is trained where there is none.

    In an object store it is `oracle/<fingerprint>`, and here for the length of the block alone.
    """
    if not isinstance(storage, Bucket):
        folder = oracle_folder(params, project, log)
        yield f"oracle/{folder.name}", folder
        return
    whole = {file.partition("/")[0] for file in storage.files("oracle") if file.endswith(f"/{_LAST}")}
    with tempfile.TemporaryDirectory() as here:
        for known in whole:
            # An oracle whose folder is there is not trained; only the one that is asked for is then fetched.
            (Path(here) / "oracle" / known).mkdir(parents=True)
        local = params.model_copy(update={"storage": params.storage.model_copy(update={"url": here})})
        folder = oracle_folder(local, project, log)
        name = f"oracle/{folder.name}"
        if folder.name in whole:
            storage.download(name, folder)
        else:
            storage.put(folder, name, _LAST)
        yield name, folder
