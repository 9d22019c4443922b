"""A plan as text: aligned tables, one line per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from subjectgen.runner.planning.memory import CARDS
from subjectgen.runner.system.settings import MemorySettings


def as_text(plan: dict[str, Any]) -> str:
    """All tables of a plan."""
    return "\n".join(line for section in _SECTIONS for line in section(plan)).rstrip()


def _head(plan: dict[str, Any]) -> Iterator[str]:
    wish = plan["request"]
    yield (
        f"{plan['experiment']}: {wish['height']}x{wish['width']} pixels, {wish['references']} reference(s) of "
        f"{wish['reference_size']} pixels, {wish['prompt_tokens']} prompt tokens, batch {wish['batch']}"
    )
    yield "1 GB is 1e9 bytes. 1 TFLOP is 1e12 operations, 2 per multiplication; see docs/how-to/plan.md."
    yield ""


def _parts(plan: dict[str, Any]) -> Iterator[str]:
    rows = []
    for name, part in plan["parts"].items():
        trained, frozen = part["trainable"], part["parameters"] - part["trainable"]
        if part["parameters"]:
            counts = [text for number in (frozen, trained) for text in _both(number)]
            rows.append([name, *counts, _depth(plan, name)])
    yield from _table(["part", "frozen", "parameters", "trainable", "parameters", ""], rows)


def _depth(plan: dict[str, Any], name: str) -> str:
    encoder = plan["encoders"].get(name.removeprefix("branches.").removesuffix(".encoder"))
    if encoder is None or not name.endswith(".encoder") or encoder["states"] == 1:
        return ""
    return f"{encoder['states'] - 1} layers, {encoder['states']} hidden states of width {encoder['width']}"


def _stages(plan: dict[str, Any]) -> Iterator[str]:
    rows = []
    for stage in plan["stages"]:
        for kind in ("positive", "negative"):
            one = stage[kind]
            if one is None:
                continue
            tokens = one["tokens"]
            counts = [str(tokens[key]) for key in ("context", "target", "references")]
            speaking = "+".join(one["branches"]) or "nobody"
            rows.append([stage["name"], str(stage["steps"]), kind, speaking, *counts, _tera(one["flops"])])
        cached = stage["step_flops_with_cache"]
        total = ["", "", "step", "", "", "", "", _tera(stage["step_flops"])]
        rows.append([*total, _tera(cached) if cached != stage["step_flops"] else ""])
    head = ["stage", "steps", "pass", "speaking", "context", "target", "references", "TFLOP", "with K/V cache"]
    yield from _table(head, rows)


def _image(plan: dict[str, Any]) -> Iterator[str]:
    costs = plan["image"]
    rows = []
    for name, row in plan["conditioning"].items():
        if row["encoder_flops"] + row["aggregator_flops"]:
            rows.append([f"{name}: encoder", _tera(row["encoder_flops"])])
        if row["aggregator_flops"]:
            rows.append([f"{name}: aggregator", _tera(row["aggregator_flops"])])
    rows.append(["denoising, all steps", _tera(costs["denoising_flops"])])
    if costs["denoising_flops_merged"] != costs["denoising_flops"]:
        rows.append(["  with the adapter merged", _tera(costs["denoising_flops_merged"])])
    if costs["denoising_flops_with_cache"] != costs["denoising_flops"]:
        rows.append(["  with the references' K/V cached", _tera(costs["denoising_flops_with_cache"])])
    rows.append(["decoding", _tera(costs["decoding_flops"])])
    rows.append(["in all", _tera(costs["flops"])])
    yield from _table(["one image", "TFLOP"], rows)
    if costs["denoising_flops_with_cache"] != costs["denoising_flops"]:
        yield "The K/V cache is for models trained with reference_attention: isolated; the sampler then uses it."
        yield ""


def _training(plan: dict[str, Any]) -> Iterator[str]:
    if plan["training"] is None:
        return
    rows = []
    for phase in plan["training"]["phases"]:
        shares = " ".join(f"{name} {share:.0%}" for name, share in phase["stage_shares"].items())
        run = phase["flops_per_sample"]
        figures = (phase["useful_flops_per_sample"], run["false"], run["true"])
        rows.append([phase["name"], f"{phase['steps']:,}", shares, *map(_tera, figures)])
    batch = plan["training"]["batch"]
    head = [f"training, batch {batch}", "steps", "stages drawn", "useful TFLOP/sample", "run", "run, checkpointed"]
    yield from _table(head, rows)


def _memory(plan: dict[str, Any]) -> Iterator[str]:
    memory = plan["memory"]
    cards = [f"{card} GB" for card in CARDS]
    moments = list(memory["as_asked"]["moments"])
    rows = [
        [
            row["options"] or _ASKED,
            _giga(row["bytes"]),
            *(_giga(row["moments"][moment]) for moment in moments),
            *("fits" if card in row["fits"] else "-" for card in CARDS),
        ]
        for row in memory["inference"]
    ]
    yield from _table(["generating", "GB", *moments, *cards], rows)
    yield _asked(memory["as_asked"])
    if memory["reference_cache_bytes"]:
        yield f"Keys and values of references take {_giga(memory['reference_cache_bytes'])} GB of it while denoising."
    yield ""
    rows = [
        [
            row["options"] or _ASKED,
            _giga(row["static_bytes"]),
            _giga(row["sample_bytes"]),
            *(f"{row['micro_batch'][card]} rows" if row["micro_batch"][card] else "-" for card in CARDS),
        ]
        for row in memory.get("training", ())
    ]
    if rows:
        yield from _table(["training", "GB", "GB/row", *cards], rows)
        yield _micro_batch(memory["training"][0], plan["training"])
        yield ""
    yield f"{memory['reserved_bytes'] / 1e9:g} GB of each card are left to the driver and to fragmentation."
    yield ""


def _micro_batch(row: dict[str, Any], training: dict[str, Any]) -> str:
    """Which micro-batch fits each card as the experiment is, and whether its own does."""
    asked = training["micro_batch"] or training["batch"]
    fitting = {card: min(rows, training["batch"]) for card, rows in row["micro_batch"].items() if rows}
    if not fitting:
        return "No card holds one row of training as the experiment asks; the options above make room."
    ways = ", ".join(f"{rows} on {card} GB" for card, rows in fitting.items())
    own = [card for card, rows in row["micro_batch"].items() if rows >= asked]
    fits = f"fits {min(own)} GB and up" if own else "fits none"
    return f"training.micro_batch, rows of a device at once, at most: {ways}. The experiment's ({asked}) {fits}."


def _asked(row: dict[str, Any]) -> str:
    """Generating as the experiment is, in one sentence."""
    fit = f"fits {row['fits'][0]} GB and up" if row["fits"] else f"fits none of {', '.join(map(str, CARDS))} GB"
    usual = MemorySettings().model_dump()
    said = ", ".join(f"{name}: {str(value).lower()}" for name, value in row["settings"].items() if value != usual[name])
    return f"Generating {_ASKED} (memory: {said or 'nothing set'}): {_giga(row['bytes'])} GB, {fit}."


def _time(plan: dict[str, Any]) -> Iterator[str]:
    rows = []
    for row in plan["time"]:
        steps = " ".join(f"{name} {1000 * t:.0f}" for name, t in row["step_seconds"].items())
        trained = f"{row['training_hours']:,.0f}" if "training_hours" in row else ""
        peak = f"{row['teraflops']:g}"
        rows.append([row["name"], peak, f"{row['bandwidth']:g}", steps, f"{row['image_seconds']:.2f}", trained])
    share = f"{plan['request']['utilisation']:.0%}"
    head = [f"at {share} of the peak", "TFLOP/s", "TB/s", "ms per step", "s per image", "training hours, one card"]
    yield from _table(head, rows)
    yield (
        f"Expected, not measured: operations at {share} of the peak, or reading the weights, whichever is longer. Peaks"
        " and bandwidths are the makers' (--json names the source). Moving parts between CPU and card is not in it."
    )
    if plan["training"] is not None:
        recomputed = plan["training"]["recomputed"]
        yield f"Training hours are those of gradient_checkpointing: {recomputed}, as the experiment asks."


_ASKED = "as the experiment asks"
_SECTIONS = (_head, _parts, _stages, _image, _training, _memory, _time)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Columns as wide as their widest entry; numbers to the right."""
    filled = [[*row, *[""] * (len(head) - len(row))] for row in rows]
    widths = [max(len(line[column]) for line in (head, *filled)) for column in range(len(head))]
    for line in (head, *filled):
        cells = (_cell(text, width, column) for column, (text, width) in enumerate(zip(line, widths, strict=True)))
        yield "  ".join(cells).rstrip()
    yield ""


def _cell(text: str, width: int, column: int) -> str:
    number = column > 0 and text[:1].isdigit() and (" " not in text or text[-1:] in "KMB")
    return text.rjust(width) if number else text.ljust(width)


def _both(number: int) -> tuple[str, str]:
    """Short and exact; nothing for none."""
    return (_count(number), f"{number:,}") if number else ("", "")


def _count(number: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return str(number)


def _tera(flops: float) -> str:
    value = flops / 1e12
    return f"{value:,.2f}" if value >= 0.1 else f"{value:.3g}"


def _giga(number: float) -> str:
    value = number / 1e9
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
