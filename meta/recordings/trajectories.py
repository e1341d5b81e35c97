"""Recorded studies on disk: what a model of whole optimizations is trained on.

A directory with

  manifest.json             format version, config, seed, origins, licence, counts, and the shards' sizes and checksums
  shard-00000.safetensors   the arrays of `Studies`, some thousand rows each

Everything that is known of a study is in its own row, so rows may be mixed. Reading executes nothing from the files.
"""

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Bool, Float, Int, UInt8, UInt32
from pydantic import Field, ValidationError

from l2o.errors import UserError
from l2o.files import difference, exists, write_whole
from l2o.record import ALGORITHMS
from l2o.registry import Config

FORMAT: Literal["l2o-trajectories"] = "l2o-trajectories"
VERSION = 1
MANIFEST = "manifest.json"
PADDING = {"high": 1, "ordered": True}  # of coordinates that a study does not have; 0 elsewhere
ARRAYS = {  # axes: studies, trials, dimension
    "x": ("NTD", np.float32), "y": ("NT", np.float32), "length": ("N", np.int32), "dimension": ("N", np.int32),
    "low": ("ND", np.float32), "high": ("ND", np.float32), "levels": ("ND", np.int32), "scale": ("ND", np.int32),
    "ordered": ("ND", np.bool_), "algorithm": ("N", np.int32), "origin": ("N", np.int32), "seed": ("N", np.uint32),
}  # fmt: skip


class Studies(NamedTuple):
    """N studies of at most T trials and D parameters, in numpy arrays.

    Attributes:
      x: points in the coordinates of `l2o.Space`: a number itself, or the index of a listed value or category.
      y: values, minimised; NaN where the evaluation failed.
      length: trials of each study; what follows them is 0.
      dimension: parameters of each study; what follows them is a real number in [0, 1].
      low, high, levels, scale, ordered: of the spaces, see `l2o.Space`.
      algorithm: who chose the points, an index in `l2o.record.ALGORITHMS`.
      origin: what was optimized, an index in the set's names.
      seed: what a rollout was drawn from; 0 elsewhere.
      text: UTF-8 JSON documents one after another, one for each study that has names; None where nothing has.
      text_end: where each document ends.
    """

    x: Float[np.ndarray, "N T D"]
    y: Float[np.ndarray, "N T"]
    length: Int[np.ndarray, "N"]
    dimension: Int[np.ndarray, "N"]
    low: Float[np.ndarray, "N D"]
    high: Float[np.ndarray, "N D"]
    levels: Int[np.ndarray, "N D"]
    scale: Int[np.ndarray, "N D"]
    ordered: Bool[np.ndarray, "N D"]
    algorithm: Int[np.ndarray, "N"]
    origin: Int[np.ndarray, "N"]
    seed: UInt32[np.ndarray, "N"]
    text: UInt8[np.ndarray, "bytes"] | None = None
    text_end: Int[np.ndarray, "N"] | None = None

    def about(self, i: int) -> dict[str, Any] | None:
        """The names of study i: a table with name, metric, goal and space; None where it has none."""
        if self.text is None or self.text_end is None:
            return None
        begin = int(self.text_end[i - 1]) if i else 0
        return json.loads(self.text[begin : int(self.text_end[i])].tobytes() or b"null")


def documents(about: Sequence[dict[str, Any] | None]) -> dict[str, np.ndarray]:
    """`text` and `text_end` of studies with these names: the inverse of `Studies.about`."""
    texts = [b"" if each is None else json.dumps(each, ensure_ascii=False).encode() for each in about]
    return {"text": np.frombuffer(b"".join(texts), np.uint8), "text_end": np.cumsum([*map(len, texts)], dtype=np.int64)}


class Shard(Config):
    """A file of the manifest."""

    file: str
    studies: int
    bytes: int
    sha256: str
    algorithms: dict[str, int]
    dimensions: dict[str, int]


class Manifest(Config):
    """What a set of studies says of itself.

    Attributes:
      format, version: of the files.
      made_with: version of this package.
      seed, config: what it was made from.
      origins: names that `Studies.origin` counts.
      licence: under which it may be used; None where that is not known.
      trials, dimension: the most of any study.
      planned: how many shards there are when it is finished.
      studies: how many there are; also by algorithm and by dimension.
      shards: in order.
    """

    format: Literal["l2o-trajectories"] = FORMAT
    version: int = VERSION
    made_with: str
    seed: int
    config: dict[str, Any]
    origins: tuple[str, ...] = Field(strict=False)
    licence: str | None
    trials: int
    dimension: int
    planned: int
    studies: int = 0
    algorithms: dict[str, int] = {}
    dimensions: dict[str, int] = {}
    shards: tuple[Shard, ...] = Field(default=(), strict=False)

    @property
    def finished(self) -> bool:
        """Whether all shards are there."""
        return len(self.shards) == self.planned


class Writer:
    """Writes shards in any order, from any thread; each counts as soon as it is whole.

    Args:
      directory: what is there already is kept, where it belongs to the same set.
      manifest: without shards.

    Raises:
      UserError: the directory holds another set, or a shard that is there is not what its manifest says.
    """

    def __init__(self, directory: Path, manifest: Manifest):
        self.directory, self.manifest, self._lock = directory, manifest, threading.Lock()
        shards: tuple[Shard, ...] = ()
        if exists(directory / MANIFEST):
            begun = read_manifest(directory)
            head = {"seed", "config", "origins", "trials", "dimension", "planned"}
            changed = difference(
                begun.model_dump(mode="json", include=head), manifest.model_dump(mode="json", include=head)
            )
            if changed:
                raise UserError(f"cannot go on with the studies in {directory}: {changed} since they were begun")
            shards = begun.shards
            for shard in shards:
                _checked(directory, shard)
        self._put(shards)

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet."""
        return [i for i in range(self.manifest.planned) if _name(i) not in {s.file for s in self.manifest.shards}]

    def add(self, number: int, studies: Studies) -> None:
        """Write shard `number`."""
        arrays = {name: np.ascontiguousarray(a) for name, a in studies._asdict().items() if a is not None}
        data = safetensors.numpy.save(arrays)
        shard = Shard(
            file=_name(number), studies=len(studies.length), bytes=len(data), sha256=hashlib.sha256(data).hexdigest(),
            algorithms=_counts(ALGORITHMS[i] for i in studies.algorithm), dimensions=_counts(studies.dimension),
        )  # fmt: skip
        write_whole(self.directory / shard.file, data)
        with self._lock:
            self._put((*(s for s in self.manifest.shards if s.file != shard.file), shard))

    def _put(self, shards: Sequence[Shard]) -> None:
        shards = tuple(sorted(shards, key=lambda shard: shard.file))
        totals: dict[str, Counter] = {"algorithms": Counter(), "dimensions": Counter()}
        for shard in shards:
            totals["algorithms"].update(shard.algorithms)
            totals["dimensions"].update(shard.dimensions)
        counts = {name: dict(sorted(total.items())) for name, total in totals.items()}
        total = sum(shard.studies for shard in shards)
        self.manifest = self.manifest.model_copy(update={"shards": shards, "studies": total, **counts})
        write_whole(self.directory / MANIFEST, json.dumps(self.manifest.model_dump(mode="json"), indent=1) + "\n")


def _counts(values) -> dict[str, int]:
    return {str(name): count for name, count in sorted(Counter(values).items())}


def _name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def read_manifest(directory: Path) -> Manifest:
    """The manifest of a finished or unfinished set.

    Raises:
      UserError: there is none, or it is of another format version.
    """
    path = directory / MANIFEST
    if not exists(path):
        raise UserError(f"{directory} has no {MANIFEST}: expected a directory that l2o data wrote")
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{path} is not of the format {FORMAT!r}: expected a directory that l2o data wrote")
    if data.get("version") != VERSION:
        raise UserError(f"{path} has format version {data.get('version')!r}, expected {VERSION}")
    try:
        return Manifest.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _checked(directory: Path, shard: Shard) -> bytes:
    path = directory / shard.file
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}), and the manifest lists it") from None
    if len(data) != shard.bytes or hashlib.sha256(data).hexdigest() != shard.sha256:
        raise UserError(f"{path} has another checksum than the manifest says: the file was changed or cut off")
    return data


class Trajectories(NamedTuple):
    """A set of recorded studies.

    Attributes:
      studies: all of them.
      origins: names that `studies.origin` counts.
      manifest: see `Manifest`.
    """

    studies: Studies
    origins: tuple[str, ...]
    manifest: Manifest


def load(directory: str | Path) -> Trajectories:
    """All studies of a finished directory, every file verified, padded to the most trials and parameters of any.

    Raises:
      UserError: something is missing, changed, unfinished, or of another format version.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if not manifest.finished:
        raise UserError(
            f"{directory} is unfinished, {len(manifest.shards)} of {manifest.planned} shards: go on with --resume"
        )
    parts = [_read(directory, shard, manifest) for shard in manifest.shards]
    return Trajectories(concatenate(parts, manifest.trials, manifest.dimension), manifest.origins, manifest)


def _read(directory: Path, shard: Shard, manifest: Manifest) -> Studies:
    try:
        arrays = safetensors.numpy.load(_checked(directory, shard))
        studies = Studies(**arrays)
    except (safetensors.SafetensorError, TypeError) as error:
        raise UserError(f"{directory / shard.file} does not hold the arrays of studies: {error}") from None
    limits = {"N": shard.studies, "T": manifest.trials, "D": manifest.dimension}
    for name, (axes, dtype) in ARRAYS.items():
        array = arrays[name]
        fits = array.ndim == len(axes) and all(n <= limits[axis] for n, axis in zip(array.shape, axes, strict=True))
        if array.dtype != dtype or not fits or len(array) != shard.studies:
            raise UserError(
                f"{directory / shard.file}: {name} is {array.dtype} {list(array.shape)}, expected {np.dtype(dtype)} "
                f"of at most {[limits[axis] for axis in axes]}"
            )
    return studies


def concatenate(parts: Sequence[Studies], trials: int, dimension: int) -> Studies:
    """One after another, padded to so many trials and parameters."""
    sizes = {"T": trials, "D": dimension, "N": sum(len(part.length) for part in parts)}
    whole = {}
    for name, (axes, dtype) in ARRAYS.items():
        whole[name] = np.full([sizes[axis] for axis in axes], PADDING.get(name, 0), dtype)
        row = 0
        for part in parts:
            array = getattr(part, name)
            whole[name][(slice(row, row + len(array)), *map(slice, array.shape[1:]))] = array
            row += len(array)
    if all(part.text is None for part in parts):
        return Studies(**whole)
    texts = [np.zeros(0, np.uint8) if part.text is None else part.text for part in parts]
    starts = np.cumsum([0, *map(len, texts)])
    ends = [np.zeros(len(p.length), np.int64) if p.text_end is None else p.text_end for p in parts]
    text_end = np.concatenate([end + start for end, start in zip(ends, starts, strict=False)])
    return Studies(**whole, text=np.concatenate(texts), text_end=text_end)
