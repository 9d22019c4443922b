"""What training changes in a backbone, and its files, which plain diffusers reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from subjectgen.backbones.lora import load_lora, lora_parameters, merge_lora, save_lora
from subjectgen.backbones.lora_files import LORA_FILE, find_lora
from subjectgen.backbones.options import LoRASettings
from subjectgen.backbones.site_transformer import FluxTransformer2DModel
from subjectgen.backbones.transformer import copy_weights, load_transformer
from subjectgen.core import CheckpointError, ComponentError
from subjectgen.core.files import atomic_folder

TRANSFORMER_FOLDER = "transformer"


class _Settings(Protocol):
    """What is trained."""

    @property
    def lora(self) -> LoRASettings | None: ...

    @property
    def full_training(self) -> bool: ...


class TrainedWeights(nn.Module):
    """A backbone's adapter, or all its weights, in and out of a folder."""

    transformer: FluxTransformer2DModel
    config: _Settings

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, by name: the adapter's parameters, all, or none."""
        if self.config.full_training:
            return {f"{TRANSFORMER_FOLDER}.{name}": p for name, p in self.transformer.named_parameters()}
        return lora_parameters(self.transformer)

    def save_trained(self, folder: str | Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Write what training changes: ``lora.safetensors``, or the folder ``transformer``, both as diffusers does.

        ``values``: in place of the parameters' own, by name.

        Raises:
            ComponentError: the adapter was merged.
        """
        if self.config.full_training:
            whole = self.transformer if values is None else self._with(values)
            with atomic_folder(Path(folder) / TRANSFORMER_FOLDER) as unfinished:
                whole.save_pretrained(unfinished, safe_serialization=True)
        elif self.config.lora is not None:
            if values is None:  # else the modules may be in use, and are not looked at
                self._refuse_merged()
            save_lora(self.transformer, self.config.lora, Path(folder) / LORA_FILE, values)

    def load_trained(self, folder: str | Path) -> None:
        """Read what :meth:`save_trained` wrote, or the LoRA of another trainer in its place.

        Raises:
            CheckpointError: weights that are missing, unreadable, or were made with other settings.
            ComponentError: the adapter was merged.
        """
        folder = Path(folder)
        if self.config.full_training:
            place = str((folder / TRANSFORMER_FOLDER).absolute())
            loaded = load_transformer(place, dtype=self.transformer.x_embedder.weight.dtype)
            copy_weights(loaded, self.transformer, place)
        elif self.config.lora is not None:
            self._refuse_merged()
            load_lora(self.transformer, self.config.lora, find_lora(folder))
        elif find_lora(folder).exists():
            raise CheckpointError(f"{find_lora(folder)}: the backbone has no adapter; set backbone.lora to load it")

    def merge_adapter(self) -> None:
        """Fold the adapter into the weights for faster sampling; it can no longer be trained or saved."""
        if lora_parameters(self.transformer):
            merge_lora(self.transformer)

    def _with(self, values: Mapping[str, Tensor]) -> FluxTransformer2DModel:
        """The transformer with these weights, sharing them."""
        state = {name.removeprefix(f"{TRANSFORMER_FOLDER}."): value for name, value in values.items()}
        with torch.device("meta"):
            empty = type(self.transformer).from_config(self.transformer.config)
        empty.load_state_dict(state, assign=True)
        return empty

    def _refuse_merged(self) -> None:
        if not lora_parameters(self.transformer):
            raise ComponentError("backbone 'flux': the adapter was merged; save or load it before merge_adapter()")
