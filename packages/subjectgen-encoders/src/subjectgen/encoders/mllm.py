"""What InternVL3 and Qwen2.5-VL share: prompt and references -> hidden states of all layers.

Shape letters: b batch, s tokens with the template, l kept tokens, c width, n image tokens of the whole batch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subjectgen.core import (
    ChangesNothing,
    ChangesResults,
    ChangesWeights,
    CheckpointError,
    Features,
    InputError,
    Modality,
    Sample,
)
from subjectgen.encoders.batching import TokenBatch, collate, take
from subjectgen.encoders.clip_text import ClipText
from subjectgen.encoders.frozen import Frozen, dtype_of
from subjectgen.encoders.loading import (
    AttentionImplementation,
    CheckpointConfig,
    DeviceMap,
    load_model,
    load_tokenizer,
)
from subjectgen.encoders.planned import IMAGE, Sources, new_model, planned_preprocessing
from subjectgen.encoders.preprocessing import Preprocessing, check_images
from subjectgen.encoders.prompting import Prompting, Template, TokenRow
from subjectgen.encoders.words import unknown_words

_PIXELS = {"pixel_values": "pixels"}
"""Our name of what transformers calls ``pixel_values``."""


class MultimodalConfig(CheckpointConfig):
    """Options of every multimodal encoder."""

    dtype: ChangesResults[Literal["auto", "float32", "bfloat16", "float16"]] = "auto"
    """Data type of the weights; ``auto`` is the one they were saved in."""
    attention_implementation: ChangesNothing[AttentionImplementation | None] = None
    """Attention kernel of transformers; ``None`` lets transformers choose."""
    device_map: ChangesNothing[DeviceMap | None] = None
    """Spread the model over devices as accelerate does: ``auto``, or a table of modules to devices (0, ``cpu``,
    ``disk``). ``None``: all of it on the run's device."""
    template: ChangesWeights[Template] = "chat"
    """``chat``: the checkpoint's chat template. ``plain``: images, then the prompt, nothing else."""
    system: ChangesWeights[str | None] = None
    """System instruction for the template; ``None`` leaves it to the template."""
    number_references: ChangesWeights[bool] = False
    """Write ``Picture k:`` before each reference when a sample has several."""
    keep_template_tokens: ChangesWeights[bool] = False
    """Keep the template's own tokens (and image markers), as text. They are dropped by default, as in Qwen-Image."""
    raw_last_layer: ChangesWeights[bool] = False
    """Give F_M before the language model's final norm; transformers' ``hidden_states[-1]`` is after it."""
    clip: ChangesResults[str | None] = None
    """Checkpoint with FLUX's ``text_encoder`` and ``tokenizer``, for a pooled text vector; ``None``: no such vector."""


@dataclass(frozen=True, kw_only=True)
class ImageBatch:
    """All references of a batch, in order, ready for the vision tower."""

    inputs: Mapping[str, Tensor]
    """Keywords of ``get_image_features``."""
    tokens: tuple[int, ...]
    """Number of tokens of each image."""


class MultimodalEncoder(Frozen):
    """Base of the multimodal encoders (paper 3.2): F_0..F_M of the kept tokens.

    Kept are the image tokens and the prompt's own tokens, in the order of the sequence: references first.
    """

    inputs: frozenset[str] = frozenset({"text", "references"})
    model_class: ClassVar[str]
    model_type: ClassVar[str]

    def __init__(self, config: MultimodalConfig) -> None:
        super().__init__()
        self.config = config
        self.model = load_model(
            self.model_class,
            config.located(),
            model_types=(self.model_type,),
            dtype=config.dtype,
            attention=config.attention_implementation,
            device_map=config.device_map,
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

    @classmethod
    def planned(cls, config: MultimodalConfig, sources: Sources) -> MultimodalEncoder:
        """The encoder without weights and with one token per word, for ``subjectgen plan``."""
        encoder = cls.__new__(cls)
        Frozen.__init__(encoder)
        encoder.config = config
        values = sources.config(config.checkpoint)
        encoder.model = new_model(cls.model_class, values, model_types=(cls.model_type,), dtype=config.dtype)
        text = encoder.model.language_model.config
        encoder.width, encoder.depth = text.hidden_size, text.num_hidden_layers + 1
        encoder.preprocessing = planned_preprocessing(sources.preprocessor(config.checkpoint))
        encoder._read_sizes()
        ids, image = encoder.model.config, encoder.model.config.image_token_id
        opening, closing = (
            getattr(ids, "vision_start_token_id", image - 2),
            getattr(ids, "vision_end_token_id", image - 1),
        )
        names = {IMAGE: image, "<img>": opening, "</img>": closing}
        encoder.prompting = encoder._new_prompting(sources.tokenizer(names=names, image=IMAGE))
        encoder.clip = ClipText.planned(config.clip, sources, dtype=config.dtype) if config.clip else None
        encoder.pooled_width = encoder.clip.width if encoder.clip else None
        encoder.freeze()
        return encoder

    @abstractmethod
    def _read_sizes(self) -> None:
        """Sizes of images and patches, from the model's config and the preprocessor's values."""

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
            InputError: an empty batch, a layer the model does not have, a reference or prompt that cannot be used, or
                more tokens than the model has positions for.
        """
        wanted = self._wanted_layers(layers, samples)
        images = self._images(samples)
        tokens = self._tokens(samples, images)
        self._check_length(samples, tokens)
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

    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        """What the models see of a batch: token ids, and pictures where there are references."""
        images = self._images(samples)
        pictures = {} if images is None else {_PIXELS.get(name, name): value for name, value in images.inputs.items()}
        clip = {"clip_token_ids": self._clip_ids(samples)} if self.clip else {}
        return {"token_ids": self._tokens(samples, images).ids, **pictures, **clip}

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that the language model's tokenizer does not know; none where it goes byte by byte."""
        return unknown_words(self.prompting.tokenizer, prompt)

    @property
    def device(self) -> torch.device:
        """Where inputs go: the device of the first weights in memory; the CPU where there are only sizes."""
        in_memory = (p.device for p in self.parameters() if p.device.type != "meta")
        return next(in_memory, torch.device("cpu"))

    def _apply(self, fn: Any, recurse: bool = True) -> MultimodalEncoder:
        """Move or cast, but leave a model that a device map has placed where it is."""
        if self.config.device_map is None:
            return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.clip is not None:
            self.clip._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def _images(self, samples: Sequence[Sample]) -> ImageBatch | None:
        references = [reference.image for sample in samples for reference in sample.references]
        check_images(references)
        moved = [image.to(self.device, torch.float32) for image in references]
        return self.prepare_images(moved) if moved else None

    def _check_length(self, samples: Sequence[Sample], tokens: TokenBatch) -> None:
        """Rotary positions have no end, so a longer sequence would run, and mean nothing."""
        lengths = tokens.attention_mask.sum(dim=1).tolist()
        longest = max(range(len(lengths)), key=lengths.__getitem__)
        limit = self.model.language_model.config.max_position_embeddings
        if lengths[longest] > limit:
            count = len(samples[longest].references)
            raise InputError(
                f"prompt {samples[longest].prompt[:40]!r} with {count} references takes {lengths[longest]} tokens;"
                f" {self.model_type} has {limit} positions, expected fewer references or a shorter prompt"
            )

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

    def _tokens(self, samples: Sequence[Sample], images: ImageBatch | None) -> TokenBatch:
        return collate(self._rows(samples, images), padding=self.prompting.image_markers[0], device=self.device)

    def _rows(self, samples: Sequence[Sample], images: ImageBatch | None) -> list[TokenRow]:
        counts = iter(images.tokens if images else ())
        return [self.prompting.row(s.prompt, [next(counts) for _ in s.references]) for s in samples]

    def _clip_ids(self, samples: Sequence[Sample]) -> Tensor:
        assert self.clip is not None
        return self.clip.tokenize([sample.prompt for sample in samples]).input_ids

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
        tokenizer = load_tokenizer(config.located())
        if len(tokenizer) > vocabulary:
            raise CheckpointError(
                f"the tokenizer of {config.checkpoint!r} has {len(tokenizer)} tokens, its model embeds {vocabulary}"
            )
        # Older checkpoints keep the template with pictures beside the tokenizer, for the processor alone.
        processor = config.located().json("chat_template.json") or {}
        return self._new_prompting(tokenizer, processor.get("chat_template"))

    def _new_prompting(self, tokenizer: Any, chat_template: str | None = None) -> Prompting:
        config = self.config
        return Prompting(
            tokenizer,
            image_token_id=self.model.config.image_token_id,
            image_markers=self.image_markers(tokenizer),
            template=config.template,
            chat_template=chat_template,
            system=config.system,
            number_references=config.number_references,
            keep_template_tokens=config.keep_template_tokens,
        )
