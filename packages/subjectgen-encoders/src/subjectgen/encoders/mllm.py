"""What InternVL3 and Qwen2.5-VL share: prompt and references -> hidden states of all layers.

Shape letters: b batch, s tokens with the template, l kept tokens, c width, n image tokens of the whole batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from subjectgen.core import CheckpointError, Features, InputError, Modality, Sample
from subjectgen.encoders.clip_text import ClipText
from subjectgen.encoders.frozen import Frozen, dtype_of
from subjectgen.encoders.loading import (
    AttentionImplementation,
    CheckpointConfig,
    load_json,
    load_model,
    load_tokenizer,
)
from subjectgen.encoders.preprocessing import Preprocessing, check_images
from subjectgen.encoders.prompting import Prompting, Template, TokenRow


class MultimodalConfig(CheckpointConfig):
    """Options of every multimodal encoder."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Data type of the weights; ``auto`` is the one they were saved in."""
    attention_implementation: AttentionImplementation | None = None
    """Attention kernel of transformers; ``None`` lets transformers choose."""
    template: Template = "chat"
    """``chat``: the checkpoint's chat template. ``plain``: images, then the prompt, nothing else."""
    system: str | None = None
    """System instruction for the template; ``None`` leaves it to the template."""
    number_references: bool = False
    """Write ``Picture k:`` before each reference when a sample has several."""
    keep_template_tokens: bool = False
    """Keep the template's own tokens (and image markers), as text. They are dropped by default, as in Qwen-Image."""
    raw_last_layer: bool = False
    """Give F_M before the language model's final norm; transformers' ``hidden_states[-1]`` is after it."""
    clip: str | None = None
    """Checkpoint with FLUX's ``text_encoder`` and ``tokenizer``, for a pooled text vector; ``None``: no such vector."""


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """All references of a batch, in order, ready for the vision tower."""

    inputs: Mapping[str, Tensor]
    """Keywords of ``get_image_features``."""
    tokens: tuple[int, ...]
    """Number of tokens of each image."""


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Sequences of a batch, padded on the right, and where the kept tokens are."""

    ids: Int[Tensor, "b s"]
    attention_mask: Int[Tensor, "b s"]
    position: Int[Tensor, "b l"]
    """Place of each kept token in ``ids``; 0 at padding."""
    modality: Int[Tensor, "b l"]
    reference: Int[Tensor, "b l"]


class MultimodalEncoder(Frozen):
    """Base of the multimodal encoders (paper 3.2): F_0..F_M of the kept tokens.

    Kept are the image tokens and the prompt's own tokens, in the order of the sequence: references first.
    """

    inputs: frozenset[str] = frozenset({"text", "references"})
    model_class: ClassVar[Any]
    model_type: ClassVar[str]

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__()
        self.config = config
        self.model = load_model(
            self.model_class,
            config,
            model_types=(self.model_type,),
            dtype=config.dtype,
            attention=config.attention_implementation,
        )
        text = self.model.language_model.config
        if config.raw_last_layer:
            text.tie_last_hidden_states = False
        self.width: int = text.hidden_size
        self.depth: int = text.num_hidden_layers + 1
        self.preprocessing = Preprocessing.from_checkpoint(config)
        self.prompting = self._prompting(text.vocab_size)
        self.clip = self._clip()
        self.pooled_width: int | None = self.clip.width if self.clip else None
        self.freeze()

    @abstractmethod
    def prepare_images(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> ImageBatch:
        """Resize, normalise and cut images of any size."""

    @abstractmethod
    def image_markers(self, tokenizer: Any) -> tuple[int, int]:
        """Ids of the tokens before and after an image."""

    def position_inputs(self, tokens: TokenBatch, images: ImageBatch | None) -> Mapping[str, Tensor]:
        """Keywords that the model needs to place image tokens; none by default."""
        return {}

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Features:
        """Encode a batch.

        Args:
            samples: prompts and references; rows may have different numbers of references, also none.
            layers: indices into F_0..F_M that are wanted, the others are ``None``; all by default.

        Returns:
            Features with tokens to the left and padding, zero everywhere, to the right.

        Raises:
            InputError: an empty batch, a layer the model does not have, a reference or prompt that cannot be used.
        """
        wanted = self._wanted_layers(layers, samples)
        references = [reference.image for sample in samples for reference in sample.references]
        images = self._images(references)
        tokens = collate(self._rows(samples, images), padding=self.prompting.image_markers[0], device=self.device)
        vision = self.model.get_image_features(**images.inputs, return_dict=True) if images else None
        valid = tokens.modality != Modality.PADDING
        states = self._hidden_states(tokens, images, vision, wanted)
        return Features(
            hidden_states=tuple(None if state is None else take(state, tokens.position, valid) for state in states),
            modality=tokens.modality,
            reference=tokens.reference,
            image_features=self._scatter(vision, tokens.modality),
            pooled=self.clip.pooled([sample.prompt for sample in samples]) if self.clip else None,
            last_layer_normalized=not self.config.raw_last_layer,
        )

    def _images(self, references: Sequence[Tensor]) -> ImageBatch | None:
        check_images(references)
        moved = [image.to(self.device, torch.float32) for image in references]
        return self.prepare_images(moved) if moved else None

    def _hidden_states(
        self, tokens: TokenBatch, images: ImageBatch | None, vision: Any, wanted: list[int]
    ) -> Sequence[Float[Tensor, "b s c"] | None]:
        """Run the language model; the vision tower's output is handed over, not computed again."""
        if not wanted:
            return (None,) * self.depth
        outputs = self.model(
            input_ids=tokens.ids,
            attention_mask=tokens.attention_mask,
            mm_encoder_outputs=None if vision is None else {"image": vision},
            output_hidden_states=wanted,
            use_cache=False,
            **self.position_inputs(tokens, images),
        )
        return outputs.hidden_states

    def _scatter(self, vision: Any, modality: Int[Tensor, "b l"]) -> Float[Tensor, "b l c"]:
        """Vision features after the projector at image positions, zero elsewhere."""
        features = torch.zeros(*modality.shape, self.width, device=modality.device, dtype=dtype_of(self.model))
        if vision is not None:
            pooler = vision.pooler_output
            flat = torch.cat(pooler) if isinstance(pooler, tuple | list) else pooler.flatten(0, 1)
            features[modality == Modality.IMAGE] = flat.to(features)
        return features

    def _rows(self, samples: Sequence[Sample], images: ImageBatch | None) -> list[TokenRow]:
        counts = iter(images.tokens if images else ())
        return [self.prompting.row(s.prompt, [next(counts) for _ in s.references]) for s in samples]

    def _wanted_layers(self, layers: Sequence[int] | None, samples: Sequence[Sample]) -> list[int]:
        if not samples:
            raise InputError("cannot encode an empty batch")
        wanted = list(range(self.depth)) if layers is None else sorted(set(layers))
        outside = [layer for layer in wanted if not 0 <= layer < self.depth]
        if outside:
            raise InputError(f"layer {outside[0]} does not exist: {self.config.checkpoint!r} has 0 to {self.depth - 1}")
        return wanted

    def _clip(self) -> ClipText | None:
        config = self.config
        if config.clip is None:
            return None
        checkpoint = CheckpointConfig(checkpoint=config.clip, local_files_only=config.local_files_only)
        return ClipText.from_config(checkpoint, dtype=config.dtype)

    def _prompting(self, vocabulary: int) -> Prompting:
        config = self.config
        tokenizer = load_tokenizer(config)
        if len(tokenizer) > vocabulary:
            raise CheckpointError(
                f"the tokenizer of {config.checkpoint!r} has {len(tokenizer)} tokens, its model embeds {vocabulary}"
            )
        # Older checkpoints keep the template with pictures beside the tokenizer, for the processor alone.
        processor = load_json(config, "chat_template.json") or {}
        return Prompting(
            tokenizer,
            image_token_id=self.model.config.image_token_id,
            image_markers=self.image_markers(tokenizer),
            template=config.template,
            chat_template=processor.get("chat_template"),
            system=config.system,
            number_references=config.number_references,
            keep_template_tokens=config.keep_template_tokens,
        )


def collate(rows: Sequence[TokenRow], *, padding: int, device: torch.device) -> TokenBatch:
    """Pad sequences on the right with the id ``padding`` (any but the image token) and list their kept tokens.

    Attention is causal, so what follows the last kept token cannot reach it and is not computed at all.
    """
    kept = [[i for i, keep in enumerate(row.keep) if keep] for row in rows]
    used = [row.ids[: (positions or [0])[-1] + 1] or [padding] for row, positions in zip(rows, kept, strict=True)]
    return TokenBatch(
        ids=_pad(used, padding, device),
        attention_mask=_pad([[1] * len(ids) for ids in used], 0, device),
        position=_pad(kept, 0, device),
        modality=_pad([[r.modality[i] for i in k] for r, k in zip(rows, kept, strict=True)], Modality.PADDING, device),
        reference=_pad([[r.reference[i] for i in k] for r, k in zip(rows, kept, strict=True)], -1, device),
    )


def take(
    states: Float[Tensor, "b s c"], position: Int[Tensor, "b l"], valid: Bool[Tensor, "b l"]
) -> Float[Tensor, "b l c"]:
    """Kept tokens of a hidden state, zero at padding."""
    rows = torch.arange(len(states), device=states.device)[:, None]
    return states[rows, position].masked_fill_(~valid[..., None], 0)


def _pad(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Int[Tensor, "b l"]:
    length = max(map(len, rows))
    padded = [[*row, *[value] * (length - len(row))] for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device).view(len(rows), length)
