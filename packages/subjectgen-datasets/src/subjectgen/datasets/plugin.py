"""What this distribution offers. Imported at discovery: nothing heavy here."""

from __future__ import annotations

from collections.abc import Iterable

from subjectgen.core import Component, hookimpl


@hookimpl
def subjectgen_datasets() -> Iterable[Component]:
    """Data for training."""
    return (
        Component(
            name="uno_1m",
            target="subjectgen.datasets.uno_1m:Uno1M",
            summary="UNO-1M by its own labels: pairs of one subject, filtered by score",
        ),
        Component(
            name="uno_json",
            target="subjectgen.datasets.uno_json:UnoJson",
            summary="UNO's training JSON: a prompt, a target, one or several references",
        ),
        Component(
            name="musar_gen",
            target="subjectgen.datasets.musar_gen:MusarGen",
            summary="MUSAR-Gen's Parquet files: two references, one target",
            extra="pip install subjectgen-datasets[parquet]",
        ),
        Component(
            name="image_pairs",
            target="subjectgen.datasets.image_pairs:ImagePairs",
            summary="a folder of pictures with a JSON, JSON-lines or CSV index, or by their names",
        ),
        Component(
            name="tar_shards",
            target="subjectgen.datasets.tar_shards:TarShards",
            summary="tar shards with WebDataset's naming, read at random; local or fsspec URLs",
        ),
    )
