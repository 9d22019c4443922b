"""All that a training keeps of frozen parts' results: targets, and what each branch's encoder says.

In a folder each has a folder of its own, ``targets`` or ``branches.NAME.encoder``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from subjectgen.core import SubjectgenError
from subjectgen.runner.system.fingerprint import fixed_sample, kept
from subjectgen.runner.system.settings import CacheSettings
from subjectgen.runner.system.system import System
from subjectgen.runner.training.cache_folder import FolderStore
from subjectgen.runner.training.cache_identity import Identity, part_identity
from subjectgen.runner.training.cache_store import MemoryStore, Store
from subjectgen.runner.training.cached_encoder import CachedEncoder

Say = Callable[[str], None]


class Caches:
    """The caches that ``training.cache`` asks for. As a context: at its end everything is where it is kept."""

    def __init__(self, system: System, settings: CacheSettings, *, known: Mapping[str, Any], say: Say) -> None:
        """Open them.

        Args:
            system: It stays as it is; see ``system`` of the caches.
            settings: Of ``training.cache``.
            known: Facts of the frozen parts, as they are kept beside trained ones.
            say: Gets a line for what is damaged.

        Raises:
            ConfigError: Targets of an autoencoder that draws, or a folder that something else made; names the keys.
        """
        self.folder = settings.folder
        self._say = say
        self.targets: Store | None = self._targets(system, known) if settings.targets else None
        """Latents of targets, under ``picture_key``; ``None`` where they are not kept."""
        self.encoders: dict[str, CachedEncoder] = {}
        """By branch."""
        self.stores: dict[str, Store] = {} if self.targets is None else {"targets": self.targets}
        """All of them, by what they hold."""
        if settings.features:
            for name in system.branches:
                self._add_encoder(system, name, known)
        branches = {
            name: replace(branch, encoder=self.encoders.get(name, branch.encoder))
            for name, branch in system.branches.items()
        }
        self.system = replace(system, branches=branches)
        """The same parts, with encoders that remember what they made: for losses."""

    def __enter__(self) -> Caches:
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.flush()
        else:
            with suppress(SubjectgenError):  # what ended the run is what matters
                self.flush()

    def flush(self) -> None:
        """Write what only memory holds, where there is a folder.

        Raises:
            InputError: No space or no permission; names the file.
        """
        for store in self.stores.values():
            store.flush()

    def forget(self) -> None:
        """Data sets have changed: let go of what only takes memory."""
        for store in self.stores.values():
            store.forget()

    def _targets(self, system: System, known: Mapping[str, Any]) -> Store:
        _check_draws_nothing(system)
        part = system.experiment.parts.autoencoder
        values = part_identity(part, made="latents of targets, float32", weights=known["frozen"]["autoencoder"])
        samples = {"latents": kept(_encoded(system)[0])}
        return self._store("targets", Identity(values=values, samples=samples, libraries=_versions(known)))

    def _add_encoder(self, system: System, name: str, known: Mapping[str, Any]) -> None:
        branch, where = system.branches[name], f"branches.{name}.encoder"
        layers = getattr(branch.aggregator, "layers", None)
        facts = known["encoders"][where]
        values = part_identity(
            system.experiment.parts.branches[name].encoder,
            made="what an encoder gives",
            layers=None if layers is None else sorted(layers),
            weights=facts["weights"],
            **{f"tokens.{key}": value for key, value in facts["tokens"].items()},
        )
        samples = {f"pictures.{key}": value for key, value in facts["pictures"].items()}
        samples |= {f"features.{key}": value for key, value in facts["features"].items()}
        store = self._store(where, Identity(values=values, samples=samples, libraries=_versions(known)))
        self.stores[where] = store
        self.encoders[name] = CachedEncoder(branch.encoder, store, layers=layers, device=system.device)

    def _store(self, name: str, identity: Identity) -> Store:
        if self.folder is None:
            return MemoryStore()
        return FolderStore(self.folder / name, identity, self._say)


def _check_draws_nothing(system: System) -> None:
    """Whether one picture has one latent; two generators tell.

    Raises:
        ConfigError: It has many.
    """
    one, other = (_encoded(system, torch.Generator().manual_seed(seed))[0] for seed in (0, 1))
    if not torch.equal(one, other):
        raise system.experiment.loaded.error(
            "training.cache.targets",
            f"got true, but autoencoder {system.experiment.parts.autoencoder.name!r} draws latents anew for each row; "
            "expected false, or an autoencoder that does not draw (for vae: deterministic: true)",
        )


@torch.no_grad()
def _encoded(system: System, generator: torch.Generator | None = None) -> torch.Tensor:
    """Latents of the fixed picture, cut to a size that the backbone's tokens fill."""
    picture, multiple = fixed_sample().references[0].image, system.autoencoder.scale_factor * system.backbone.patch_size
    height, width = (max(side // multiple, 1) * multiple for side in picture.shape[1:])
    image = picture[None, :, :height, :width].to(system.device)
    return system.autoencoder.encode_images(image, generators=None if generator is None else [generator])


def _versions(known: Mapping[str, Any]) -> Mapping[str, str]:
    return known["encoders"]["versions"]
