"""`edge-sdk evaluate`. Everything heavy is imported inside the command, so that `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_runtime.cli.guard import Json, emit_json, guarded

if TYPE_CHECKING:
    from edge_sdk.evaluate.config import EvaluateConfig

__all__ = ["evaluate"]


@guarded
def evaluate(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for tables, plots and the page.")],
    config: Annotated[Path | None, typer.Argument(metavar="CONFIG.yaml", help="All settings; no others then.")] = None,
    images: Annotated[Path | None, typer.Option(metavar="DIR", help="Images.")] = None,
    masks: Annotated[Path | None, typer.Option(metavar="DIR", help="Masks of the same file names.")] = None,
    manifest: Annotated[Path | None, typer.Option(metavar="CSV", help="A row for each image, column file.")] = None,
    split: Annotated[str, typer.Option(help="Score rows with this value in column split.")] = "",
    group: Annotated[str, typer.Option(metavar="COLUMN", help="Exam or patient.")] = "",
    quantity: Annotated[str, typer.Option(metavar="COLUMN", help="Reference of the ellipse's circumference, mm.")] = "",
    subgroup: Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Audit by it; repeat.")] = None,
    system: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]FILE", help=".edge, .onnx, TorchScript; repeat.")
    ] = None,
    reference: Annotated[str, typer.Option(metavar="NAME", help="What others are held against; else the first.")] = "",
    classes: Annotated[str, typer.Option(metavar="A,B", help="Names of the foreground classes.")] = "object",
    mask_values: Annotated[str, typer.Option(metavar="0,255", help="Background, then one value a class.")] = "",
    preprocess: Annotated[
        Path | None, typer.Option(metavar="YAML", help="Steps for .onnx and TorchScript; else a bundle's own.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Score teacher, student and every variant on labelled images, and audit what compression does to subgroups.

    Exit code 0 whatever is found: read the tables, or `audit.findings[].flagged` in the JSON.
    """
    from edge_sdk.display import show_progress
    from edge_sdk.evaluate import evaluate as run
    from edge_sdk.evaluate import load_config, render, write_evaluation

    flags: dict[str, Any] = {
        "--images": images,
        "--masks": masks,
        "--manifest": manifest,
        "--system": system,
        "--subgroup": subgroup,
    }
    flags |= {"--split": split, "--group": group, "--quantity": quantity, "--reference": reference}
    flags |= {"--subgroup": subgroup, "--preprocess": preprocess, "--mask-values": mask_values}
    _check_use(config, flags)
    if config is not None:
        settings, base = load_config(config), config.resolve().parent
    else:
        settings, base = _from_flags(flags, classes), Path()
    with show_progress() as progress:
        found = run(settings, base=base, progress=progress)
    files = write_evaluation(out, found)
    if as_json:
        emit_json(found.to_dict())
        return
    typer.echo(render(found))
    typer.echo(f"{out}: {', '.join(path.name for path in files)}")


def _check_use(config: Path | None, flags: dict[str, Any]) -> None:
    from edge_runtime.errors import ConfigError

    given = [name for name, value in flags.items() if value]
    if config is not None and given:
        raise ConfigError(f"{config} holds the settings; leave {', '.join(given)} out, or give no file")
    missing = [name for name in ("--images", "--masks", "--system") if not flags[name]]
    if config is None and missing:
        raise ConfigError(f"{', '.join(missing)} missing; give a CONFIG.yaml, or --images, --masks and --system")


def _from_flags(flags: dict[str, Any], classes: str) -> EvaluateConfig:
    from edge_sdk.evaluate.config import AuditConfig, CohortConfig, EvaluateConfig, QuantityConfig, SystemConfig

    names = tuple(name.strip() for name in classes.split(","))
    values = _mask_values(flags["--mask-values"], len(names))
    cohort = CohortConfig(
        images=str(flags["--images"].resolve()),
        masks=str(flags["--masks"].resolve()),
        manifest=str(flags["--manifest"].resolve()) if flags["--manifest"] else "",
        split=flags["--split"],
        mask_values=values,
    )
    systems = []
    for text in flags["--system"]:
        name, _, path = text.rpartition("=")
        systems.append(SystemConfig(name=name, path=str(Path(path).resolve())))
    return EvaluateConfig(
        cohorts=(cohort,),
        systems=tuple(systems),
        classes=names,
        reference=flags["--reference"],
        group=flags["--group"],
        preprocess=_preprocess(flags["--preprocess"]),
        quantity=QuantityConfig(column=flags["--quantity"]) if flags["--quantity"] else None,
        audit=AuditConfig(columns=tuple(flags["--subgroup"])) if flags["--subgroup"] else AuditConfig(),
    )


def _mask_values(text: str, classes: int) -> tuple[int, ...]:
    from edge_runtime.errors import ConfigError

    if not text:
        return (0, 255) if classes == 1 else tuple(range(classes + 1))
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--mask-values is {text!r}; whole numbers with commas between are needed") from error


def _preprocess(path: Path | None) -> Any:
    from edge_runtime.preprocess.spec import PreprocessSpec
    from edge_runtime.settings_file import read_yaml, to_struct

    if path is None:
        return None
    found = read_yaml(path, "preprocessing")
    return to_struct(found.get("preprocess", found), PreprocessSpec, str(path))
