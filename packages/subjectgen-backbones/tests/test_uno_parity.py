"""UNO's published way (arXiv 2504.02160, sections 3.2 and 3.3), as formulas, beside diffusers' own transformer.

Latents are z (b, c, 2H, 2W); a reference k has size 2h_k, 2w_k. Written with loops on purpose: nothing of ours is used
to say what is expected.
"""

import math

import pytest
import torch
from diffusers import FluxTransformer2DModel

from subjectgen.backbones.reference_tokens import ReferenceTokensInjector
from subjectgen.core import Latents, Streams
from subjectgen.testing.backbone import token_group

GRID = (2, 3)
REFERENCES = ((1, 2), (3, 1))


def tokens(image):
    """Token i·W + j has channels c·4 + 2p + q = z[c, 2i + p, 2j + q]."""
    batch, channels, height, width = image.shape
    result = torch.zeros(batch, height // 2 * (width // 2), 4 * channels)
    for i in range(height // 2):
        for j in range(width // 2):
            for c in range(channels):
                for p in (0, 1):
                    for q in (0, 1):
                        result[:, i * (width // 2) + j, 4 * c + 2 * p + q] = image[:, c, 2 * i + p, 2 * j + q]
    return result


def position_ids():
    """Target (0, i, j); reference k (0, H + Σ_{m<k} h_m + i, W + Σ_{m<k} w_m + j)."""
    ids = [(0, i, j) for i in range(GRID[0]) for j in range(GRID[1])]
    row, column = GRID
    for height, width in REFERENCES:
        ids += [(0, row + i, column + j) for i in range(height) for j in range(width)]
        row, column = row + height, column + width
    return torch.tensor(ids, dtype=torch.float32)


@pytest.fixture
def case(build):
    """A guided backbone, diffusers' own class with the same weights, and random inputs."""
    backbone = build(sizes={"guidance_embeds": True, "num_layers": 2, "num_single_layers": 2})
    theirs = FluxTransformer2DModel.from_config(dict(backbone.transformer.config))
    theirs.load_state_dict(backbone.transformer.state_dict())
    assert type(theirs) is FluxTransformer2DModel
    return {
        "backbone": backbone,
        "theirs": theirs,
        "target": torch.randn(2, 4, 2 * GRID[0], 2 * GRID[1]),
        "references": tuple(torch.randn(2, 4, 2 * h, 2 * w) for h, w in REFERENCES),
        "text": torch.randn(2, 5, 24),
        "pooled": torch.randn(2, 12),
    }


def ours(case, timestep, *, references=True):
    streams = Streams(target_grid=GRID, context=(token_group(case["text"]),), pooled=case["pooled"])
    if references:
        injector = ReferenceTokensInjector(ReferenceTokensInjector.Config(), backbone=case["backbone"])
        streams = injector(streams, Latents(values=case["references"]))
    with torch.no_grad():
        return case["backbone"](case["target"], timestep, streams, guidance=4.0)


@torch.no_grad()
def expected(case, timestep, *, references=True):
    """Target first, references after it in order, text ids zero, same t for all; the first H·W outputs are kept."""
    images = (case["target"], *(case["references"] if references else ()))
    sequence = torch.cat([tokens(image) for image in images], dim=1)
    return case["theirs"](
        hidden_states=sequence,
        encoder_hidden_states=case["text"],
        pooled_projections=case["pooled"],
        timestep=timestep,
        guidance=torch.full((2,), 4.0),
        img_ids=position_ids()[: sequence.shape[1]],
        txt_ids=torch.zeros(5, 3),
    ).sample[:, : GRID[0] * GRID[1]]


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("times", [(0.97, 0.97), (0.5, 0.1)])
def test_the_velocity_is_diffusers_own(case, references, times):
    timestep = torch.tensor(times)
    found = ours(case, timestep, references=references)
    assert torch.equal(tokens(found), expected(case, timestep, references=references))


@pytest.mark.parametrize(("side", "mu"), [(512, 0.63), (1024, 1.15)])
def test_the_shift_is_unos_in_training(side, mu):
    """mu is linear in the number of tokens, 0.5 at 256 and 1.15 at 4096; t' = e^mu / (e^mu + 1/t - 1)."""
    grids = pytest.importorskip("subjectgen.schedules.grids")
    count = (side // 16) ** 2
    formula = 0.5 + (1.15 - 0.5) * (count - 256) / (4096 - 256)
    assert formula == pytest.approx(mu, abs=1e-3)
    shifted = [math.exp(formula) / (math.exp(formula) + (1 / (1 - k / 25) - 1)) for k in range(25)]
    assert grids.make_grid("flux_shift", 25, grids.flux_mu(count)).tolist() == pytest.approx([*shifted, 0.0], abs=1e-6)
