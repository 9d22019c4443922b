"""Isolation by distillation: references learn to stand alone, without any target image.

Keys and values of references that attend to references only, at t = 0, are the same in every step and can be kept; but
a model that was not trained so loses the subject. Here it is its own teacher: the weights as they were when the phase
began, with full attention, give the velocity that the isolated student is to give. Points x_t come from the teacher's
own way from noise along the sampler's grid.

Shape letters: b rows of one group, c h w latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from subjectgen.core import Backbone, ConfigError, Isolates, Streams
from subjectgen.runner.system.system import System
from subjectgen.runner.training.draws import TrainingBatch
from subjectgen.runner.training.losses import group_streams
from subjectgen.runner.training.step import StepModule


@dataclass(frozen=True, kw_only=True, eq=False)
class IsolationLoss:
    """Mean squared error of the student's velocity to the teacher's on the target's tokens, of each row."""

    teacher: Mapping[str, Tensor]
    """Trained parameters by the module's own names, as they were when the phase began."""
    grid: Float[Tensor, " n"]
    """The sampler's timesteps, from 1 to 0; those of the rows are among them."""
    guidance: float = 1.0
    """For backbones with a guidance input."""

    def __call__(self, system: System, batch: TrainingBatch, rows: Sequence[int]) -> Float[Tensor, " b"]:
        """Loss of each row of a group."""
        with torch.no_grad():
            module, arguments = StepModule(system), (self._teach, batch, rows)
            noisy, wanted = functional_call(module, dict(self.teacher), arguments).unbind()
        velocity = self._velocity(system, system.backbone, noisy, batch, rows, group_streams(system, batch, rows))
        return (velocity.float() - wanted.float()).square().mean(dim=(1, 2, 3))

    def _teach(self, system: System, batch: TrainingBatch, rows: Sequence[int]) -> Float[Tensor, "two b c h w"]:
        """Where the teacher comes to at each row's timestep, and its velocity there."""
        backbone, streams = system.backbone.full_attention(), group_streams(system, batch, rows)
        x = torch.stack([batch.noise[row] for row in rows])
        until = batch.timesteps[list(rows)]
        for t, following in zip(self.grid[:-1].tolist(), self.grid[1:].tolist(), strict=True):
            going = until < t
            if not bool(going.any()):
                break
            times = torch.full((len(rows),), t, dtype=torch.float64)
            velocity = self._velocity(system, backbone, x, batch, rows, streams, times)
            stepped = x + (following - t) * velocity
            x = torch.where(going.to(x.device)[:, None, None, None], stepped, x)
        return torch.stack((x, self._velocity(system, backbone, x, batch, rows, streams)))

    def _velocity(
        self,
        system: System,
        backbone: Backbone,
        noisy: Float[Tensor, "b c h w"],
        batch: TrainingBatch,
        rows: Sequence[int],
        streams: Streams,
        times: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        times = batch.timesteps[list(rows)] if times is None else times
        guidance = self.guidance if system.backbone.guidance_embedded else None
        return backbone(noisy, times.to(noisy), streams, guidance=guidance)


def isolation_loss(
    system: System,
    parameters: Mapping[str, nn.Parameter],
    values: Mapping[str, Tensor],
    *,
    guidance: float,
) -> IsolationLoss:
    """The loss of a phase.

    Args:
        system: Whose backbone isolates references.
        parameters: All that is trained, by name.
        values: The teacher's, by the same names.
        guidance: For backbones with a guidance input.

    Raises:
        ConfigError: A backbone that does not isolate references.
    """
    if not isinstance(system.backbone, Isolates) or not system.backbone.isolated:
        raise ConfigError(
            "training.phases: loss: isolation: the backbone's references are not isolated; expected "
            "backbone.reference_attention: isolated"
        )
    names = {id(parameter): name for name, parameter in parameters.items()}
    own = {key: value for key, value in StepModule(system).named_parameters() if id(value) in names}
    teacher = {key: values[names[id(value)]].to(value.device) for key, value in own.items()}
    return IsolationLoss(teacher=teacher, grid=sampling_grid(system), guidance=guidance)


def sampling_grid(system: System) -> Float[Tensor, " n"]:
    """The sampler's timesteps for the experiment's image."""
    image = system.experiment.settings.image
    rows, columns = system.target_grid(system.latent_shape(image.height, image.width)[1:])
    return system.schedule.timesteps(image_tokens=rows * columns)
