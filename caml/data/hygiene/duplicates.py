"""Duplicates: keys of documents, and on disk the first document that has each key.

A document is removed where it shares a key with an earlier one, removed or not: whether it is does not depend on
what comes after it, so that a longer stretch of a corpus has the shorter one's documents as its beginning.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from caml.data.hygiene.overlap import words_of

BUCKETS = 64
"""Files by which keys are dealt: one at a time is held in memory."""

_RECORD = np.dtype([("key", "<u8"), ("document", "<u8")])


def exact_key(text: str) -> int:
    """64 bits of the SHA-256 of a text. Of a billion documents two share one by chance with probability 0.03."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


@functools.cache
def _permutations(count: int) -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=count, seed=1, hashfunc=_hash32)


def _hash32(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=4).digest(), "little")


def near_keys(text: str, bands: int, rows: int, words: int) -> list[int]:
    """A key for each band of MinHash values (datasketch) over runs of `words` words of a text.

    Source: A. Broder, On the resemblance and containment of documents, 1997.
    """
    found = words_of(text) or [text.strip()]  # signs alone are alike where they are the same
    runs = {" ".join(found[i : i + words]).encode() for i in range(max(1, len(found) - words + 1))}
    minhash = _permutations(bands * rows).copy()
    minhash.update_batch(sorted(runs))
    values = np.ascontiguousarray(minhash.hashvalues.reshape(bands, rows), "<u8")
    return [
        int.from_bytes(hashlib.blake2b(band.tobytes(), digest_size=8, key=b"%d" % number).digest(), "little")
        for number, band in enumerate(values)
    ]


class FirstSeen:
    """Keys of documents below `folder`, on disk: 16 bytes for each key, and one byte a document in memory.

    While repeated keys are looked for, a 64th of them is in memory besides.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._documents = 0
        folder.mkdir(parents=True, exist_ok=True)
        for bucket in range(BUCKETS):
            self._file(bucket).write_bytes(b"")

    def add(self, keys: np.ndarray) -> None:
        """Add the next documents, by their keys uint64 `[documents, keys]`."""
        count, each = keys.shape
        records = np.empty(count * each, _RECORD)
        records["key"] = keys.reshape(-1)
        records["document"] = np.repeat(np.arange(self._documents, self._documents + count), each)
        self._documents += count
        bucket = (records["key"] >> np.uint64(58)).astype(np.int64)
        order = np.argsort(bucket, kind="stable")
        ends = np.searchsorted(bucket[order], np.arange(BUCKETS + 1))
        for number in np.flatnonzero(np.diff(ends)):
            with open(self._file(int(number)), "ab") as file:
                file.write(records[order[ends[number] : ends[number + 1]]].tobytes())

    def repeated(self) -> np.ndarray:
        """Which documents share a key with an earlier one, bool `[documents]`."""
        found = np.zeros(self._documents, bool)
        for bucket in range(BUCKETS):
            records = np.fromfile(self._file(bucket), _RECORD)
            order = np.argsort(records["key"], kind="stable")  # documents ascend within a key
            keys = records["key"][order]
            again = order[1:][keys[1:] == keys[:-1]]
            # Twice the same key in one document is no duplicate.
            first = order[np.searchsorted(keys, records["key"][again])]
            documents = records["document"]
            found[documents[again][documents[again] != documents[first]]] = True
        return found

    def _file(self, bucket: int) -> Path:
        return self._folder / f"keys-{bucket:02}.bin"
