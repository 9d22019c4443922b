"""Reading weights: a folder, an installed package, a hub id or one file; looked at whole before a model is made.

Safetensors only, no pickles, no code from a checkpoint; every failure is a ``CheckpointError`` of one line. A model in
the hub's layout takes a few lines::

    checkpoint = Checkpoint(name="owner/model", subfolder="vae")
    vae = load_diffusers(AutoencoderKL, checkpoint, dtype="float32")

and one of torch's own, without transformers or diffusers::

    values = checkpoint.config("model_type", ["acme"])
    with torch.device("meta"):
        model = Acme(values["width"])
    weights = checkpoint.weights("model")
    check_fit(str(checkpoint), weights.shapes(), model_shapes(model))
    model.load_state_dict(weights.tensors(), assign=True)
"""

from __future__ import annotations

from subjectgen.core.weights.checkpoint import Checkpoint
from subjectgen.core.weights.checksums import SUMS, verify, write_checksums
from subjectgen.core.weights.fit import check_fit, check_report, model_shapes
from subjectgen.core.weights.headers import Shapes, Weights, tensor_shapes
from subjectgen.core.weights.pretrained import Precision, load_diffusers, load_processor, load_transformers
from subjectgen.core.weights.reading import quiet, reading
from subjectgen.core.weights.resolve import resolve_checkpoint

__all__ = [
    "SUMS",
    "Checkpoint",
    "Precision",
    "Shapes",
    "Weights",
    "check_fit",
    "check_report",
    "load_diffusers",
    "load_processor",
    "load_transformers",
    "model_shapes",
    "quiet",
    "reading",
    "resolve_checkpoint",
    "tensor_shapes",
    "verify",
    "write_checksums",
]
