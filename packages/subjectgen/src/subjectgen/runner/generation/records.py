"""What is kept beside an image, so that it can be made again."""

from __future__ import annotations

from typing import Any

from subjectgen.runner.generation.batches import image_size
from subjectgen.runner.generation.request import Request
from subjectgen.runner.system.identity import portable
from subjectgen.runner.system.system import System


def record(system: System, request: Request, case: int) -> dict[str, Any]:
    """Prompt, seed and all settings of one case of a request, as JSON holds them."""
    asked = request.cases[case]
    size = image_size(system, asked)
    experiment = system.experiment
    trained = None if system.trained is None else portable(system.trained)
    return {
        "experiment": experiment.name,
        "key": asked.sample.key,
        "prompt": asked.sample.prompt,
        "references": [reference.name for reference in asked.sample.references],
        "weights": [reference.weight for reference in asked.sample.references],
        "seed": asked.seed,
        "height": size[0],
        "width": size[1],
        "steps": request.steps or system.schedule.steps,
        "schedule": dict(experiment.settings.schedule),
        "trained": trained,
        "settings": {**experiment.values, "trained": trained},
        "plugins": experiment.plugins.distributions(),
    }
