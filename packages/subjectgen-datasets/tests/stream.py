"""Read a data set as four ranks do, each every fourth sample in a process of its own; say what each has read."""

import json
import multiprocessing
import sys
from collections import Counter
from pathlib import Path

import torch

from subjectgen.core import SampleError
from subjectgen.core.plugins import Plugins
from subjectgen.datasets.shards import write_shards

RANKS = 4
OPTIONS = {"buckets": [[8, 8], [8, 12], [12, 8]], "random_crop": True}


def read(dataset, rank: int) -> tuple[list[str], Counter[str]]:
    torch.set_num_threads(1)
    keys, faults = [], Counter()
    for index in range(rank, len(dataset), RANKS):
        try:
            keys.append(dataset.augmented(index, index).key)
        except SampleError as error:
            faults[error.reason] += 1
    return keys, faults


def main(spec: str, shards: str = "") -> None:
    dataset = Plugins.discover().build("datasets", {**json.loads(spec), **OPTIONS})
    with multiprocessing.get_context("fork").Pool(2) as pool:
        found = pool.starmap(read, [(dataset, rank) for rank in range(RANKS)])
    told = {
        "samples": len(dataset),
        "left_out": dataset.left_out.counts,
        "unwanted": dataset.left_out.unwanted,
        "ranks": [keys for keys, _ in found],
        "faults": sum((faults for _, faults in found), Counter()),
        "sizes": Counter(f"{height}x{width}" for height, width in dataset.sizes),
    }
    if shards:
        written = write_shards(dataset, Path(shards), shard_size=4_000_000)
        told |= {"packed": written.samples, "packed_left_out": written.left_out.counts}
    print(json.dumps(told))


main(*sys.argv[1:])
