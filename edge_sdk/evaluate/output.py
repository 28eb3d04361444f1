"""Files of an evaluation: JSON, one CSV row for each image and system, plots, and a page that needs nothing else."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from edge_runtime.atomic import make_folder, write_bytes
from edge_sdk.evaluate.plots import plot_bland_altman, plot_forest, plot_reliability
from edge_sdk.evaluate.result import Evaluation
from edge_sdk.evaluate.text import audit_note, audit_table, difference_table, score_table, verdict
from edge_sdk.report import Figure, Section, Table, Tile

__all__ = ["write_evaluation"]


def write_evaluation(out: Path, evaluation: Evaluation) -> list[Path]:
    """Write `evaluation.json`, `images.csv`, `report.html` and the plots into `out`; returns their paths.

    Each file is whole or not there. Without a clinical quantity there is no Bland-Altman plot, without an audit no
    subgroup plot.
    """
    make_folder(out)
    text = json.dumps(evaluation.to_dict(), indent=1, allow_nan=False)
    write_bytes(out / "evaluation.json", text.encode())
    write_bytes(out / "images.csv", _csv(evaluation).encode())
    paths = [out / "evaluation.json", out / "images.csv"]
    plot_reliability(out / "reliability.png", evaluation)
    paths.append(out / "reliability.png")
    if evaluation.quantity and plot_bland_altman(out / "bland_altman.png", evaluation):
        paths.append(out / "bland_altman.png")
    if evaluation.audit is not None and evaluation.audit.findings:
        plot_forest(out / "subgroups.png", evaluation.audit)
        paths.append(out / "subgroups.png")
    write_bytes(out / "report.html", _page(evaluation, {path.name: path for path in paths}).encode())
    return [*paths, out / "report.html"]


def _page(evaluation: Evaluation, files: dict[str, Path]) -> str:
    import jinja2

    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    pages = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return pages.get_template("evaluation.html.j2").render(
        title="Evaluation",
        subtitle=", ".join(f"{c.name}: {c.images} images" for c in evaluation.cohorts),
        notice="Figures hold for the images named here and for no others; none is a statement about a patient.",
        tiles=_tiles(evaluation),
        sections=_sections(evaluation, files),
    )


def _csv(evaluation: Evaluation) -> str:
    metrics = list(dict.fromkeys(name for row in evaluation.images for name in row.values))
    columns = list(dict.fromkeys(name for row in evaluation.images for name in row.columns if name != "cohort"))
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["image", "cohort", "group", "system", "missed", *metrics, *columns])
    for row in evaluation.images:
        values = ["" if row.values.get(name) is None else row.values[name] for name in metrics]
        held = ["" if row.columns.get(name) is None else row.columns[name] for name in columns]
        writer.writerow([row.image, row.cohort, row.group, row.system, int(row.missed), *values, *held])
    return file.getvalue()


def _tiles(evaluation: Evaluation) -> list[Tile]:
    tiles = []
    if evaluation.audit is not None:
        flagged = len(evaluation.audit.flagged)
        tiles.append(Tile(label="subgroups flagged", value=str(flagged), goal="none", met=flagged == 0))
    missed = sum(summary.missed for summary in evaluation.summaries)
    tiles.append(Tile(label="images with a class missed or made up", value=str(missed), goal="none", met=missed == 0))
    return tiles


def _sections(evaluation: Evaluation, files: dict[str, Path]) -> list[Section]:
    overlap = ("dice", "jaccard", "precision", "recall", "f1", "ap", "auroc")
    distance = ("hd95", "assd", "quantity_error", "ece", "ece_border")
    sections = [
        Section(
            title=f"Scores: {cohort.name}",
            tables=(
                score_table(evaluation, cohort.name, overlap),
                score_table(evaluation, cohort.name, distance),
                difference_table(evaluation, cohort.name),
            ),
        )
        for cohort in evaluation.cohorts
    ]
    if evaluation.audit is not None:
        caption = (
            "Excess loss by subgroup with its 95 % interval. The grey mark is the smallest excess that would have been "
            "found; red is flagged."
        )
        figure = _figure(files, "subgroups.png", "Subgroups", caption)
        table = audit_table(evaluation.audit)
        table = Table(head=table.head, rows=table.rows)
        text = (verdict(evaluation.audit), audit_note(evaluation.audit))
        sections.append(Section(title="Compression audit", text=text, tables=(table,), figures=figure))
    figures = (
        *_figure(files, "bland_altman.png", "Bland-Altman plots", "The clinical quantity against its reference; images "
                 "where a class was missed are left out here and count in the tables."),
        *_figure(files, "reliability.png", "Reliability", "Do probabilities near the border mean what they say?"),
    )  # fmt: skip
    sections.append(Section(title="Agreement and reliability", figures=figures))
    rows = tuple((s.name, s.file, s.sha256[:16], s.preprocess_sha256[:16]) for s in evaluation.systems)
    table = Table(head=("system", "file", "sha256", "sha256 of the preprocessing"), rows=rows)
    note = "Every system prepares frames and reads masks as the device does; scores are in the source's own pixels."
    return [*sections, Section(title="What was scored", text=(note,), tables=(table,))]


def _figure(files: dict[str, Path], name: str, alt: str, caption: str) -> tuple[Figure, ...]:
    return (Figure.from_file(files[name], alt=alt, caption=caption, kind="plot"),) if name in files else ()
