"""The command line: a thin layer over the Python API. Nothing here imports torch before a command needs it."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from subjectgen.core import KINDS, SubjectgenError

app = typer.Typer(
    name="subjectgen",
    help="Compose, train, measure and extend subject-driven image generation.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ExperimentPath = Annotated[Path, typer.Argument(help="Experiment YAML.", metavar="EXPERIMENT")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", help="Override a key: --set schedule.steps=10. May be repeated.", metavar="KEY=VALUE"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_FORMS = "a mask picture, a box left,top,right,bottom in pixels or shares, find:WORDS, or '' for none."
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; by default cuda where there is one.")]

Kind = Enum("Kind", {kind: kind for kind in KINDS}, type=str)  # type: ignore[misc]


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options before the command; ``main`` reads ``--debug`` itself."""


@app.command()
def train(
    experiment: ExperimentPath,
    out: Annotated[Path, typer.Option(help="New folder for the run.")],
    override: Overrides = [],  # noqa: B006  # typer copies it
    device: Device = None,
) -> None:
    """Train an experiment in its phases, from untrained parts, and write a run directory."""
    from subjectgen.core.plugins import Plugins
    from subjectgen.runner.assemble import System
    from subjectgen.runner.experiment import Experiment

    read = Experiment.read(experiment, override)
    plugins = Plugins.discover()
    _check_parts(read, plugins)
    read.training_datasets()
    from subjectgen.runner.devices import chosen_device
    from subjectgen.runner.out_of_memory import explained_memory
    from subjectgen.runner.training import Trainer

    place = chosen_device(device)
    with explained_memory(read, plugins, device=place, training=True):
        result = Trainer(System(read, plugins, device=place), out).train()
    for phase, loss in result.losses.items():
        typer.echo(f"{phase}: loss {loss:.4f}")
    typer.echo(f"wrote {result.folder}")


@app.command()
def generate(
    experiment: Annotated[
        Path, typer.Argument(help="Experiment YAML, or a folder that `train` wrote.", metavar="EXPERIMENT")
    ],
    prompt: Annotated[list[str], typer.Option(help="Prompt. May be repeated.")] = [],  # noqa: B006
    reference: Annotated[list[Path], typer.Option(help="Image file of the subject. May be repeated.")] = [],  # noqa: B006
    subject_mask: Annotated[list[str], typer.Option(help=f"Subject in its reference: {_FORMS} In order.")] = [],  # noqa: B006
    region: Annotated[list[str], typer.Option(help=f"Subject in the result: {_FORMS} In order.")] = [],  # noqa: B006
    weight: Annotated[list[float], typer.Option(help="Strength of each reference, in order.")] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(min=0, max=2**63 - 1, help="Seed. May be repeated.")] = [0],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("out"),
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps; by default the schedule's.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels; by default the experiment's.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels; by default the experiment's.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images per pass.")] = 32,
    preview: Annotated[Path | None, typer.Option(help="Picture file that shows the images as they come.")] = None,
    preview_every: Annotated[int, typer.Option(min=1, help="Steps between previews.")] = 5,
    override: Overrides = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Generate images from prompts and reference pictures."""
    from subjectgen.runner.generating import generate_files
    from subjectgen.runner.references import ReferenceFiles

    for path in generate_files(
        experiment,
        prompts=prompt,
        references=ReferenceFiles(pictures=reference, subject_masks=subject_mask, regions=region, weights=weight),
        seeds=seed,
        out=out,
        steps=steps,
        size=(height, width),
        batch_size=batch_size,
        preview=preview,
        preview_every=preview_every,
        overrides=override,
        device=device,
    ):
        typer.echo(str(path))


@app.command()
def check(
    experiment: ExperimentPath,
    override: Overrides = [],  # noqa: B006
    build: Annotated[bool, typer.Option(help="Also load every part, which checks widths, layers and weights.")] = False,
    count: Annotated[
        bool, typer.Option(help="Like --build, but new parts only as sizes: counts parameters of any model size.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Validate an experiment and print its resolved tree."""
    from subjectgen.core.plugins import Plugins
    from subjectgen.runner.experiment import Experiment

    read, host = Experiment.read(experiment, override), Plugins.discover()
    tree = _check_parts(read, host)
    if build or count:
        from subjectgen.runner.assemble import System

        tree["parts"] = System(read, host, device="meta" if count else "cpu").describe()
    if as_json:
        typer.echo(json.dumps(tree, indent=2, default=str))
    else:
        import yaml

        typer.echo(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).rstrip())


@app.command()
def plan(
    experiment: ExperimentPath,
    references: Annotated[int, typer.Option(help="Reference pictures.")] = 1,
    reference_size: Annotated[int, typer.Option(help="Pixels of a reference's side.")] = 512,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 128,
    batch: Annotated[int, typer.Option(help="Images generated at once.")] = 1,
    utilisation: Annotated[float, typer.Option(help="Share of an accelerator's peak that is reached.")] = 0.5,
    accelerator: Annotated[list[str], typer.Option(help="H200, A100-80 ...; by default all. May be repeated.")] = [],  # noqa: B006
    override: Overrides = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Tell parameters, tokens, operations, memory and time of an experiment of any size, without its weights."""
    with _no_collector():
        from subjectgen.core.plugins import Plugins
        from subjectgen.runner.experiment import Experiment

        read, host = Experiment.read(experiment, override), Plugins.discover()
        _check_parts(read, host)
        from subjectgen.runner.planning.plan import Request, make_plan
        from subjectgen.runner.planning.report import as_text

        wish = Request(
            references=references,
            reference_size=reference_size,
            prompt_tokens=prompt_tokens,
            batch=batch,
            utilisation=utilisation,
            accelerators=tuple(accelerator),
        )
        made = make_plan(read, host, wish)
    typer.echo(json.dumps(made, indent=2) if as_json else as_text(made))


@app.command()
def plugins(as_json: AsJson = False) -> None:
    """List plugins with versions and components; exit code 1 if any is broken."""
    from subjectgen.core.plugins import Plugins

    host = Plugins.discover()
    if as_json:
        typer.echo(json.dumps(_plugins_tree(host), indent=2))
    else:
        for plugin in host.plugins:
            typer.echo(f"{plugin.distribution} {plugin.version}")
            for kind, components in plugin.components.items():
                typer.echo(f"  {kind}: {', '.join(component.name for component in components)}")
        for name in host.left_out:
            typer.echo(f"{name} (left out by the environment)")
        for broken in host.broken:
            typer.echo(f"broken: {broken}", err=True)
    if host.broken:
        raise typer.Exit(1)


@app.command()
def components(
    kind: Annotated[Kind | None, typer.Option(help="Only this kind.")] = None, as_json: AsJson = False
) -> None:
    """List components by kind; with --json also their options."""
    from subjectgen.core.plugins import Plugins

    host = Plugins.discover()
    kinds = [str(kind.value)] if kind else list(KINDS)
    if as_json:
        typer.echo(json.dumps({name: _components_tree(host, name) for name in kinds}, indent=2, default=str))
        return
    for name in kinds:
        typer.echo(f"{name}:")
        for distribution, _, component in host.components(name):
            typer.echo(f"  {component.name:<18} {component.summary} ({distribution})")


@app.command()
def demo(
    out: Annotated[
        Path | None, typer.Option(help="Folder for sheets, page and scores; by default out/ and the experiment's name.")
    ] = None,
    reference: Annotated[list[Path], typer.Option(help="Your own picture. May be repeated.")] = [],  # noqa: B006
    prompt: Annotated[list[str], typer.Option(help="Prompt for your own picture. May be repeated.")] = [],  # noqa: B006
    experiment: Annotated[str, typer.Option(help="Experiment YAML, or the name of one in experiments/.")] = "demo",
    override: Overrides = [],  # noqa: B006
    device: Device = None,
) -> None:
    """Show and score an experiment's comparisons, on toys that no training saw, or use your own picture."""
    from subjectgen.runner.demo import run_demo
    from subjectgen.runner.references import ReferenceFiles

    run_demo(
        out,
        references=ReferenceFiles(pictures=reference),
        prompts=prompt,
        experiment=experiment,
        overrides=override,
        device=device,
        say=typer.echo,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Mistakes a user can repair end in one message and exit code 2."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    try:
        app([argument for argument in given if argument != "--debug"])
    except (SubjectgenError, OSError) as error:  # OSError: a full disk, a folder that cannot be written
        if debug:
            raise
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise SystemExit(2) from None


# ------------------------------------------------------------------------------------------------------ helpers


@contextmanager
def _no_collector() -> Iterator[None]:
    """Without looking for garbage among the libraries' millions of objects: a tenth of the seconds of a plan."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _check_parts(read: Any, host: Any) -> dict[str, Any]:
    """Validate every part with its own config; returns the tree with defaults filled in."""
    settings = read.settings
    place = read.place()

    def part(kind: str, spec: dict[str, Any], where: str) -> dict[str, Any]:
        _, config = host.configure(kind, spec, where=where, **place)
        return {"name": spec["name"], **config.model_dump(mode="json")}

    tree = settings.model_dump(mode="json")
    tree["branches"] = {
        name: {
            "encoder": part("encoders", branch.encoder, f"branches.{name}.encoder"),
            "aggregator": branch.aggregator and part("aggregators", branch.aggregator, f"branches.{name}.aggregator"),
            "injector": part("injectors", branch.injector, f"branches.{name}.injector"),
        }
        for name, branch in settings.branches.items()
    }
    tree["backbone"] = part("backbones", settings.backbone, "backbone")
    tree["autoencoder"] = part("encoders", settings.autoencoder, "autoencoder")
    tree["schedule"] = part("schedules", settings.schedule, "schedule")
    host.build("schedules", settings.schedule, where="schedule", branches=tuple(settings.branches), **place)
    if settings.finder:
        tree["finder"] = part("finders", settings.finder, "finder")
    for name, comparison in settings.comparisons.items():
        where = f"comparisons.{name}"
        tree["comparisons"][name]["dataset"] = part("datasets", comparison.dataset, f"{where}.dataset")
        tree["comparisons"][name]["metrics"] = [
            part("metrics", metric, f"{where}.metrics.{number}") for number, metric in enumerate(comparison.metrics)
        ]
    if settings.training:
        if settings.training.dataset:
            tree["training"]["dataset"] = part("datasets", settings.training.dataset, "training.dataset")
        for number, phase in enumerate(settings.training.phases):
            if phase.dataset:
                where = f"training.phases.{number}.dataset"
                tree["training"]["phases"][number]["dataset"] = part("datasets", phase.dataset, where)
    return dict(tree)


def _plugins_tree(host: Any) -> dict[str, Any]:
    return {
        "plugins": [
            {
                "distribution": plugin.distribution,
                "version": plugin.version,
                "components": {kind: [c.name for c in found] for kind, found in plugin.components.items()},
            }
            for plugin in host.plugins
        ],
        "broken": [{"distribution": b.distribution, "version": b.version, "error": b.error} for b in host.broken],
        "left_out": list(host.left_out),
    }


def _components_tree(host: Any, kind: str) -> list[dict[str, Any]]:
    from subjectgen.core.config import describe

    rows = []
    for distribution, version, component in host.components(kind):
        row = {"name": component.name, "summary": component.summary, "distribution": distribution, "version": version}
        try:
            row["options"] = describe(host.target(kind, f"{distribution}:{component.name}").Config)
        except SubjectgenError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows
