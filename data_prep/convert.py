"""Recipe and recordings -> SpikeDataset: parallel over files, resumable, the same for any worker count.

Recordings are converted in shards of consecutive names. A finished shard lies whole in
`<out>.parts/<plan>/`, where the plan is the hash of recipe and source files; a rerun with the same plan
takes finished shards as they are. When all are there, they are written into one file in order and the
parts are removed. Killed at any moment, by whatever signal, a conversion loses the shards it was making
and nothing else.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from snnbench.cluster import LOCAL
from snnbench.data_prep.encoders import encoder_of
from snnbench.data_prep.encoding import Encoder
from snnbench.data_prep.only_writer import only_writer, parts_folder
from snnbench.data_prep.readers import READERS
from snnbench.data_prep.recipe import Recipe, SplitSpec, sha256_text
from snnbench.data_prep.shards import (
    Job,
    Progress,
    Summary,
    make_shards,
    make_shards_elsewhere,
    read_shard,
)
from snnbench.data_prep.sources import Recording
from snnbench.data_prep.spikes import Sample
from snnbench.data_prep.split import (
    assign_splits,
    check_classes,
    check_groups,
    missing_recordings,
    refuse_duplicates,
    resolved_rule,
    without_duplicates,
)
from snnbench.data_prep.store import SPLITS, Header, create
from snnbench.errors import SnnbenchError, unknown_name
from snnbench.paths import file_sha256


def convert(
    recipe: Recipe,
    source: Path | None,
    out: Path,
    *,
    workers: int,
    scheduler: str = LOCAL,
    test_groups: Sequence[str] = (),
    valid_groups: Sequence[str] = (),
    partial: bool = False,
    progress: Callable[[Progress], None] | None = None,
    hashing: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Summary:
    """Convert a folder of recordings into one SpikeDataset file.

    Parameters
    ----------
    source : folder with the recordings; None for samples that are computed.
    out : file to write; appears whole at the end.
    workers : processes, at least 1. The result does not depend on it.
    scheduler : `local`, or a Dask scheduler's address, whose workers then convert. They read the recordings
        under the same paths.
    test_groups, valid_groups : replace the recipe's choice of held-out groups.
    partial : take what is there, though classes, listed recordings or a split are missing.
    progress : called before the first shard and after every one.
    hashing : called with the files hashed and to hash, before the first shard.
    tell : called with what the user should know, such as how many recordings are missing.

    Raises
    ------
    SnnbenchError
        Naming the file: a recording that cannot be used, a split that does not work out, duplicates,
        another process that converts into `out`, no space to write, or a worker that died. Finished
        shards are kept for the next attempt.
    """
    tell = tell or (lambda text: None)
    encoder = encoder_of(recipe)
    folder = source or Path()
    if recipe.source.kind not in READERS:
        raise unknown_name(
            f"source.kind in recipe {recipe.name}:",
            recipe.source.kind,
            [*READERS, "published-spikes"],
        )
    recordings, classes = READERS[recipe.source.kind](folder, recipe)
    rule = resolved_rule(recipe.split, test_groups, valid_groups, recordings)
    if partial:
        rule = _share_of_valid(rule, recordings, recipe)
    splits = assign_splits(recordings, rule, folder=folder, partial=partial)
    check_groups(recordings, splits)
    if missing := missing_recordings(recipe, splits, partial=partial):
        tell(missing)
    with only_writer(out):
        hashes = _source_hashes(recordings, hashing)
        if rule.duplicates == "refuse":
            refuse_duplicates(recordings, splits, hashes)
        else:
            kept = without_duplicates(recordings, splits, hashes)
            if len(kept) < len(recordings):
                tell(f"{len(recordings) - len(kept)} recordings, copies of others, are left out")
            recordings = kept
        if not partial:
            check_classes(recordings, splits, classes)
        resolved = recipe.model_copy(update={"classes": classes, "split": rule})
        processing = resolved.processing_json(encoder.constants)
        jobs = _jobs(recordings, encoder, parts_folder(out), processing, hashes)
        encoder.prepare()
        if scheduler == LOCAL:
            summary = make_shards(jobs, workers, progress)
        else:
            summary = make_shards_elsewhere(jobs, scheduler, progress)
        header = Header.of(resolved, processing, {r.group for r in recordings})
        with create(out, header) as writer:
            for split in SPLITS:
                for samples in _samples(jobs, splits, hashes, header, split):
                    writer.append(split, samples)
        shutil.rmtree(parts_folder(out), ignore_errors=True)
    return summary


def _share_of_valid(rule: SplitSpec, recordings: Sequence[Recording], recipe: Recipe) -> SplitSpec:
    """The rule with `valid_last` in proportion to the training recordings that are there."""
    expected = sum(recipe.expected_samples.get(split, 0) for split in ("train", "valid"))
    found = sum(r.split == "train" for r in recordings)
    if not rule.valid_last or found >= expected:
        return rule
    return rule.model_copy(update={"valid_last": max(1, rule.valid_last * found // expected)})


def _source_hashes(
    recordings: Sequence[Recording], hashing: Callable[[int, int], None] | None
) -> dict[str, str]:
    """Source id to the sha256 of its content: of the file, or of its place in a file of many; empty
    for a computed sample."""
    n_in_file = Counter(r.path for r in recordings)
    known = {r.path: r.content_sha256 for r in recordings}
    of_file = {}
    for n_done, (path, digest) in enumerate(known.items()):
        if hashing:
            hashing(n_done, len(known))
        of_file[path] = digest or (file_sha256(path) if path else "")
    if hashing:
        hashing(len(known), len(known))
    return {
        r.source_id: sha256_text(f"{of_file[r.path]} {r.position}")
        if r.path and n_in_file[r.path] > 1
        else of_file[r.path]
        for r in recordings
    }


def _jobs(
    recordings: Sequence[Recording],
    encoder: Encoder,
    parts: Path,
    processing: str,
    hashes: dict[str, str],
) -> list[Job]:
    """The shards of a plan, which is everything that decides what is in them."""
    sources = sorted((r.source_id, hashes[r.source_id]) for r in recordings)
    plan = sha256_text(processing + "".join(f"{name} {digest}\n" for name, digest in sources))
    return [
        Job(
            path=parts / plan[:16] / f"shard-{start // encoder.per_shard:05d}.npz",
            recordings=tuple(recordings[start : start + encoder.per_shard]),
            encode=encoder,
        )
        for start in range(0, len(recordings), encoder.per_shard)
    ]


def _samples(
    jobs: Sequence[Job],
    splits: dict[str, str],
    hashes: dict[str, str],
    header: Header,
    split: str,
) -> Iterator[list[Sample]]:
    """The samples of one split, shard by shard."""
    group_index = {name: i for i, name in enumerate(header.groups)}
    for job in jobs:
        wanted = [i for i, r in enumerate(job.recordings) if splits[r.source_id] == split]
        if not wanted:
            continue
        shard = read_shard(job)
        if shard is None:
            raise SnnbenchError(f"{job.path}: became unreadable; run again")
        yield [
            Sample(
                times=shard.times[shard.offsets[i] : shard.offsets[i + 1]],
                units=shard.units[shard.offsets[i] : shard.offsets[i + 1]],
                label=job.recordings[i].label,
                group=group_index[job.recordings[i].group],
                source_id=job.recordings[i].source_id,
                source_sha256=hashes[job.recordings[i].source_id],
            )
            for i in wanted
        ]
