"""What runs once per image: the multimodal LLM, the aggregator, the autoencoder."""

from __future__ import annotations

from typing import Any

import torch

from parts.build import WITHOUT_ADAPTER, experiment, system
from parts.machine import Run, memory_used, summary, timed
from parts.session import Session
from parts.stand_ins import request
from subjectgen.runner.planning.blueprint import build_blueprint
from subjectgen.runner.planning.dry_run import dry_run
from subjectgen.runner.system.system import System


def run(session: Session) -> dict[str, Any]:
    """Milliseconds and rate of each, one prompt with one reference, alone and in a batch as in training."""
    changes = (WITHOUT_ADAPTER,)
    made = system(session, changes, blocks=False)
    counted = build_blueprint(experiment(session, changes))
    left_out: list[str] = []
    rows = []
    with torch.no_grad():
        for name, flops, call in calls(session, made, counted):
            if not session.in_time(name, left_out):
                continue
            with memory_used(session.device) as used:
                taken = summary(timed(call, session.device, repeats=session.sizes.repeats, warm=2))
            rows.append({"what": name, "teraflops": flops / 1e12, **taken, **session.share(flops, taken["ms"]), **used})
    mllm = made.branches["mllm"]
    features = mllm.encoder.encode([request(session.sizes.prompt, session.sizes.reference)])
    return {
        "settings": {
            "encoder": f"{mllm.encoder.config.checkpoint}, random weights, {mllm.encoder.model.dtype}",
            "parameters": sum(p.numel() for p in mllm.encoder.parameters()),
            "hidden states": f"{features.depth} of width {mllm.encoder.width}, {int(features.mask.sum())} tokens",
            "hidden states, bytes": sum(s.numel() * s.element_size() for s in features.hidden_states if s is not None),
            "aggregator": type(mllm.aggregator).__name__,
            "autoencoder": f"{made.autoencoder.config.dtype}; what it does is not a bf16 product",
            "counted": "as subjectgen plan does: causal attention in full",
        },
        "results": {"once per image": rows, "left_out": left_out},
        "targets": [],
    }


def calls(session: Session, made: System, counted: System) -> list[tuple[str, int, Run]]:
    """Name, operations and call of each row."""
    found: list[tuple[str, int, Run]] = []
    sample = request(session.sizes.prompt, session.sizes.reference)
    mllm, vae = made.branches["mllm"], made.branches["vae"]
    layers, each = getattr(mllm.aggregator, "layers", None), operations(counted, sample)
    for batch in dict.fromkeys((1, session.sizes.batches[-1])):
        samples = [sample] * batch
        features = mllm.encoder.encode(samples, layers=layers)
        found += [
            (f"mllm, batch {batch}", batch * each["mllm"], lambda s=samples: mllm.encoder.encode(s, layers=layers)),
            (f"aggregator, batch {batch}", batch * each["aggregator"], lambda f=features: mllm.aggregator(f)),
            (f"vae, references, batch {batch}", batch * each["vae"], lambda s=samples: vae.encoder.encode(s)),
        ]
    for pixels in session.sizes.images:
        shape = (1, *made.latent_shape(pixels, pixels))
        latents = torch.randn(shape, device=session.device)
        with dry_run(counted.autoencoder) as cost:
            counted.autoencoder.decode(torch.empty(shape, device="meta"))
        found.append((f"vae, decoding {pixels} px", cost.flops, lambda x=latents: made.autoencoder.decode(x)))
    return found


def operations(counted: System, sample: Any) -> dict[str, int]:
    """Of one sample, counted on shapes."""
    mllm, vae = counted.branches["mllm"], counted.branches["vae"]
    layers = getattr(mllm.aggregator, "layers", None)
    with dry_run(mllm.encoder) as encoder:
        features = mllm.encoder.encode([sample], layers=layers)
    with dry_run(mllm.aggregator) as aggregator:
        mllm.aggregator(features)
    with dry_run(vae.encoder) as latents:
        vae.encoder.encode([sample])
    return {"mllm": encoder.flops, "aggregator": aggregator.flops, "vae": latents.flops}
