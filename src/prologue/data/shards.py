"""From a source to webdataset tars: every image verified, its bytes kept, the same output for the same input.

A shard holds the images at its places of the chosen order that can be used, so that shards are independent: processes
and machines share them out, and a run that was killed goes on with those that are missing.
"""

import shutil
import signal
import sqlite3
import tarfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from prologue.core.errors import PrologueError
from prologue.core.files import read_json, remove, replacing, sha256, write_json
from prologue.core.launch import count_from, is_main_process, own_cores, progress, rank, world_size
from prologue.core.params import DataParams
from prologue.core.sharing import own_tasks
from prologue.core.work import close_work, earlier_sessions, note_session, open_work, origin_of, read_origin
from prologue.data.fingerprint import fingerprint, locate
from prologue.data.found import print_found, what_was_found
from prologue.data.images import MANIFEST, MANIFEST_FORMAT, index_path
from prologue.data.listing import ListedImage, Listing, list_files
from prologue.data.selection import choose_images, name_some
from prologue.data.sources import kind_of, open_source
from prologue.data.sources.base import Source, Unusable
from prologue.data.verify import check_image, check_size
from prologue.data.workers import end_with_parent

SPLITS = ("train", "val")
LISTING = "listing.sqlite"
TAR_OVERHEAD = 3 * 1024  # bytes beside each image: three headers, class and path
NAMED_IN_ERROR = 5  # rejected files


@dataclass(frozen=True)
class Job:
    """One shard to write, and what it is written from; `key` stands for the work's origin."""

    work: Path
    key: str
    source: Path
    kind: str
    split: str
    number: int
    images: int
    max_pixels: int

    @property
    def tar(self) -> Path:
        """The shard."""
        return self.work / self.split / f"{self.number:06d}.tar"

    @property
    def report(self) -> Path:
        """What became of its images; there when the shard is complete."""
        return self.tar.with_suffix(".json")


def write_shards(data: DataParams, seed: int, output: Path) -> dict[str, Any]:
    """Write {train,val}/NNNNNN.tar, their indexes and manifest.json to the folder `output`.

    A tar holds the original bytes of each image, its class id (.cls) and its path in the source (.txt). The images'
    order and the choice of held-out images depend on `seed` and their paths alone. Every process of a launch writes its
    own shards, on all of its cores; a run that was killed finds its finished shards in a folder beside `output`.

    Returns:
        Counts of images, classes and rejected files.

    Raises:
        PrologueError: the source cannot be used, more than data.max_rejected of its files cannot, or the disk is too
            small.
    """
    work = output.with_name(f".{output.name}.tmp")
    data = data.model_copy(update={"source": locate(data.source)})
    kind, wait = kind_of(data.source), _barrier()
    if is_main_process():
        _prepare(work, kind, data, seed)
    wait()
    _write_own(work, _jobs(work, kind, data), data)
    wait()
    metrics = _finish(work, kind, data, output) if is_main_process() else {}
    wait()
    return metrics


def _barrier() -> Callable[[], None]:
    """What waits for all processes of the launch; torch is needed, and loaded, only where there are several."""
    if world_size() == 1:
        return lambda: None
    from prologue.core.runtime import start_accelerator

    return start_accelerator().wait_for_everyone


def _prepare(work: Path, kind: str, data: DataParams, seed: int) -> None:
    """List the source and choose the images; keep the shards that an earlier run wrote of the same."""
    made = work.with_suffix(".listing")
    try:
        with replacing(made) as temporary, Listing(temporary) as listing:
            _choose(listing, kind, data, seed)
            settings = data.model_dump(exclude={"source", "hash_content", "image_size", "max_rejected"})
            files = fingerprint(data.model_copy(update={"hash_content": False}))  # the stage `source` has read all
            open_work(work, origin_of(settings | {"seed": seed, "files": files}, [], __file__))
            note_session(work)
            _require_space(work, listing, files["bytes"])
    except sqlite3.OperationalError as error:  # a full disk, or one without locks
        raise PrologueError(f"{made.resolve()}: the list of files cannot be kept there: {error}") from None
    made.replace(work / LISTING)
    for split in SPLITS:
        (work / split).mkdir(exist_ok=True)


def _choose(listing: Listing, kind: str, data: DataParams, seed: int) -> None:
    """List the source and choose its images. Raises PrologueError that names the source."""
    try:
        source = open_source(kind, data.source)
        list_files(listing, source, seed)
        choose_images(listing, source, data)
    except OSError as error:
        raise PrologueError(f"data.source: {data.source} cannot be listed: {error}") from None
    except PrologueError as error:
        raise PrologueError(f"data.source: {data.source}: {error}") from None


def _require_space(work: Path, listing: Listing, source_bytes: int) -> None:
    """Raise PrologueError where the disk cannot hold what is still to be written."""
    count, size = listing.one("SELECT COUNT(*), COALESCE(SUM(size), 0) FROM chosen JOIN files USING (id)")
    if not size:  # Parquet does not tell how large an image is
        size = source_bytes * count // listing.one("SELECT COUNT(*) FROM files")[0]
    written = sum(tar.stat().st_size for tar in work.glob("*/*.tar"))
    needed, free = size + count * TAR_OVERHEAD - written, shutil.disk_usage(work).free
    if needed > free:
        raise PrologueError(
            f"{work.parent.resolve()}: the shards need {needed / 1e9:.1f} GB more, and the disk has {free / 1e9:.1f} GB"
        )


def _jobs(work: Path, kind: str, data: DataParams) -> list[Job]:
    """Every shard of both splits."""
    with Listing(work / LISTING) as listing:
        counts = {split: listing.count(split) for split in SPLITS}
    origin = read_origin(work)
    assert origin is not None
    return [
        Job(work, origin.key, data.source, kind, split, number, data.images_per_shard, data.max_pixels)
        for split in SPLITS
        for number in range(-(-counts[split] // data.images_per_shard))
    ]


def _write_own(work: Path, jobs: list[Job], data: DataParams) -> None:
    """Write those of the missing shards that are this process's."""
    own = own_tasks(jobs, rank(), world_size())  # of all: which are missing changes while others write
    with Listing(work / LISTING) as listing:
        limit = _RejectionLimit(data, sum(listing.count(split) for split in SPLITS))
    missing = [job for job in own if not job.report.is_file()]
    for job in own:
        if job.report.is_file():
            limit.add(read_json(job.report)["rejected"])
    for report in progress(_written(missing), "shards", "shard", len(missing)):
        limit.add(report["rejected"])


def _written(jobs: list[Job]) -> Iterator[dict[str, Any]]:
    """The reports of shards, as they are written by worker processes (`PROLOGUE_WORKERS`, default: one per core)."""
    workers = min(count_from("PROLOGUE_WORKERS", own_cores(), least=0), len(jobs))
    if workers <= 1:
        yield from map(write_shard, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_follow_parent) as pool:
        futures = [pool.submit(write_shard, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent process, and end when it does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def write_shard(job: Job) -> dict[str, Any]:
    """Write the tar of a job, its index and its report, which is returned."""
    source, listing = _opened(job.kind, job.source, job.work, job.key)
    images = listing.images(job.split, job.number * job.images, (job.number + 1) * job.images)
    rejected: list[dict[str, str]] = []
    index: list[tuple[int, int, int, int]] = []
    with replacing(job.tar) as temporary, temporary.open("wb") as tar:
        for place, image in enumerate(images, start=job.number * job.images):
            try:
                content, extension = _usable(source, image, job.max_pixels)
            except Unusable as reason:
                rejected.append({"path": image.path, "reason": str(reason)})
                continue
            offset = _add(tar, f"{place:08d}.{extension}", content)
            index.append((offset, len(content), image.label, zlib.crc32(content)))
            _add(tar, f"{place:08d}.cls", b"%d" % image.label)
            _add(tar, f"{place:08d}.txt", image.path.encode("utf-8", "backslashreplace"))
        tar.write(bytes(2 * tarfile.BLOCKSIZE))  # the end of a tar
    with replacing(index_path(job.tar)) as temporary, temporary.open("wb") as file:
        np.save(file, np.array(index, np.int64).reshape(-1, 4))
    file_name = job.tar.relative_to(job.work).as_posix()
    report = {"file": file_name, "images": len(index), "sha256": sha256(job.tar), "rejected": rejected}
    write_json(job.report, report)
    return report


@lru_cache(maxsize=1)
def _opened(kind: str, path: Path, work: Path, key: str) -> tuple[Source, Listing]:
    """A source and its listing, opened once in each process."""
    return open_source(kind, path), Listing(work / LISTING)


def _usable(source: Source, image: ListedImage, max_pixels: int) -> tuple[bytes, str]:
    """Content and real extension of an image. Raises Unusable."""
    check_size(image.size, max_pixels)
    content = source.read(image.path, image.size, image.place)
    check_size(len(content), max_pixels)
    return content, check_image(content, max_pixels)


def _add(tar: BinaryIO, name: str, content: bytes) -> int:
    """Append a file to a tar; returns the offset of its content."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o444
    tar.write(info.tobuf(tarfile.GNU_FORMAT))
    offset = tar.tell()
    tar.write(content)
    tar.write(bytes(-len(content) % tarfile.BLOCKSIZE))
    return offset


class _RejectionLimit:
    """Stops when more than data.max_rejected of the images do not decode."""

    def __init__(self, data: DataParams, images: int) -> None:
        self._data, self._images, self._count = data, images, 0
        self._first: list[dict[str, str]] = []

    def add(self, rejected: list[dict[str, str]]) -> None:
        """Count rejected images. Raises PrologueError once they are too many."""
        self._count += len(rejected)
        self._first += rejected[: NAMED_IN_ERROR - len(self._first)]
        if self._count > self._data.max_rejected * self._images:
            named = "".join(f"\n  {item['path']}: {item['reason']}" for item in self._first)
            raise PrologueError(
                f"data.source: more than data.max_rejected = {self._data.max_rejected:g} of the {self._images} images "
                f"of {self._data.source} cannot be used; mend or remove them, or raise the limit. The first:{named}"
            )


def _finish(work: Path, kind: str, data: DataParams, output: Path) -> dict[str, Any]:
    """Write the manifest and put the shards in their place; returns the metrics."""
    with Listing(work / LISTING) as listing:
        listed = [{"path": path, "reason": reason} for path, reason in listing.rejected()]
        usable = listing.one("SELECT COUNT(*) FROM files WHERE problem IS NULL")[0]  # of all classes, as `listed` are
        classes = listing.names("SELECT name FROM classes ORDER BY label")
        readable = listing.names("SELECT readable FROM classes ORDER BY label")
        images = sum(listing.count(split) for split in SPLITS)
        found = what_was_found(listing)
    jobs = _jobs(work, kind, data)
    reports = {split: [read_json(job.report) for job in jobs if job.split == split] for split in SPLITS}
    undecoded = [item for split in SPLITS for report in reports[split] for item in report.pop("rejected")]
    _RejectionLimit(data, usable + len(listed)).add(listed)
    _RejectionLimit(data, images).add(undecoded)
    rejected = listed + undecoded
    manifest: dict[str, Any] = {"format": MANIFEST_FORMAT, "classes": classes, "class_names": readable}
    for split in SPLITS:
        shards = [report for report in reports[split] if report["images"]]
        manifest[split] = {"images": sum(shard["images"] for shard in shards), "shards": shards}
    manifest["images_per_class"] = {split: _count_classes(work, manifest, split) for split in SPLITS}
    manifest |= {"rejected": rejected, "found": found}
    _require_all_classes(manifest, data)
    write_json(work / MANIFEST, manifest)
    empty = [work / report["file"] for split in SPLITS for report in reports[split] if not report["images"]]
    earlier = earlier_sessions(work)
    leftovers = [work / LISTING, *work.glob("*/*.json"), *empty, *map(index_path, empty)]
    for leftover in leftovers:
        remove(leftover)
    close_work(work, output)
    print_found(manifest, kind, data.source)
    return {
        "kind": kind,
        **{split: {"images": manifest[split]["images"]} for split in SPLITS},
        "classes": len(classes),
        "rejected": {"count": len(rejected), "share": len(rejected) / (images + len(listed))},
        **earlier,
    }


def _count_classes(work: Path, manifest: dict[str, Any], split: str) -> list[int]:
    """How many images of each class a split has."""
    counts = np.zeros(len(manifest["classes"]), np.int64)
    for shard in manifest[split]["shards"]:
        labels = np.load(index_path(work / shard["file"]))[:, 2]
        counts += np.bincount(labels, minlength=len(counts))
    return counts.tolist()


def _require_all_classes(manifest: dict[str, Any], data: DataParams) -> None:
    """Raise PrologueError where damaged files leave a class without training images, or nothing to validate on."""
    counts = manifest["images_per_class"]["train"]
    lost = [name for name, count in zip(manifest["classes"], counts, strict=True) if not count]
    if lost or not manifest["val"]["images"]:
        what = f"training image of the classes {name_some(lost)}" if lost else "validation image"
        raise PrologueError(f"data.source: no {what} in {data.source} can be used; check that its files are images")
