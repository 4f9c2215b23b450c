"""What commands say to people: the documents that `--json` prints, as a few lines of text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def number(value: float | None, digits: int = 3) -> str:
    """A figure, or a hyphen where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def reasons(counts: Mapping[str, int]) -> str:
    """`; 3 truncated, 1 too-large`, or nothing."""
    return "; " + ", ".join(f"{count} {reason}" for reason, count in counts.items()) if counts else ""


def columns(rows: Sequence[Sequence[object]], head: Sequence[str]) -> str:
    """Rows under a heading, in columns as wide as they need to be; numbers to the right."""
    cells = [[number(value) if isinstance(value, float) or value is None else str(value) for value in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(head), *cells]) for i in range(len(head))]
    right = [all(isinstance(row[i], int | float | None) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            cell.rjust(width) if r else cell.ljust(width) for cell, width, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in [list(head), *cells]
    ]
    return "\n".join(lines)


def run_text(done: Mapping[str, Any]) -> str:
    """The end of a run: five figures and where to look."""
    audit = f"{number(done['audit_value'])} ({done['audit_verdict']})"
    return "\n".join(
        [
            f"images          {done['images']}",
            f"twins removed   {done['twins_removed']}",
            f"cells filled    {done['cells_filled']}",
            f"audit value     {audit}  balanced accuracy of guessing the label without a pixel; 0.5 is chance",
            f"baseline AUC    {number(done['baseline_auc'])}",
            f"rejected        {done['rejected']}, each with its reason in rejects.parquet",
            f"release         {done['release']}",
            f"report          {done['report']}",
        ]
    )


def balance_text(document: Mapping[str, Any]) -> str:
    """Cells, splits and duplicates."""
    cells = [
        [c["category"], c["origin"], c["generator_or_source"], c["asked"], c["kept"], c["reason"]] for c in document["cells"]
    ]
    splits = [[split, count["real"], count["synthetic"]] for split, count in document["splits"].items()]
    twins = document["duplicates"]
    return "\n\n".join(
        [
            columns(cells, ["category", "origin", "generator or source", "asked", "kept", "not kept"]),
            columns(splits, ["split", "real", "synthetic"]),
            f"near-duplicates within {twins['radius']} bits: {twins['groups']} groups; {twins['twins_removed']} twins and "
            f"{twins['label_conflicts_removed']} label conflicts removed",
        ]
    )


def audit_text(document: Mapping[str, Any]) -> str:
    """The verdict, how well each probe guesses, and what removes each leak."""
    gate = document["gate"]
    point = number(gate["permutation95"])
    head = (
        f"{document['target']}: {document['rows']} rows\n"
        f"gate {gate['verdict']}: all no-pixel probes together guess real or synthetic at {number(gate['value'])} balanced "
        f"accuracy (limit {gate['limit']:.2f}, 95 % of shuffled labels stay below {point}, {gate['groups']} groups)"
    )
    rows = [
        [p["track"], p["view"] or "-", p["probe"], f"{p['balanced_accuracy']:.4f}", number(p["auc"]), interval(p["ci95"])]
        for p in document["probes"]
        if p["scope"] == "all"
    ]
    table = columns(rows, ["track", "view", "probe", "balanced accuracy", "AUC", "95 % interval"])
    leaks = [
        f"  {leak['view'] or ''} {leak['probe']}{'' if leak['value'] is None else ' = ' + str(leak['value'])}: {leak['remedy']}"
        for leak in document["leaks"]
    ]
    unreadable = document.get("unreadable", [])
    parts = [head, table]
    parts += ["leaks, and what removes each:\n" + "\n".join(leaks)] if leaks else []
    parts += [f"{len(unreadable)} files could not be read"] if unreadable else []
    return "\n\n".join(parts)


def interval(bounds: Sequence[float] | None) -> str:
    """`0.71-0.83`."""
    return "-" if bounds is None else f"{bounds[0]:.3f}-{bounds[1]:.3f}"


def forecast_text(document: Mapping[str, Any]) -> str:
    """What would be done."""
    lines = [f"{document['recipe']} in {document['work']}: nothing was done, this is what would be"]
    for entry in document.get("collect", []):
        options = ", ".join(f"{key} {value}" for key, value in entry["options"].items())
        what = f"{entry['images']} images of {entry['category'] or 'every category'}"
        lines.append(f"collect   {entry['source']}: {what}{f' ({options})' if options else ''}")
    for entry in document.get("generate", []):
        lines.append(
            f"generate  {entry['generator']}: {entry['images']} images of {entry['category']} in {entry['batches']} batches"
        )
        lines += [f"          {need}" for need in entry["missing"]]
    here = document.get("collected", 0) + document.get("generated", 0)
    lines.append(f"here already: {here} images")
    return "\n".join(lines)


def prompts_text(document: Mapping[str, Any]) -> str:
    """Counts, what is double, and a sample of prompts."""
    head = f"{document['count']} prompts, {document['duplicates']} near-identical, {document['named']} naming a person"
    return "\n".join([head, *(f"  {text}" for text in document["sample"])])


def published_text(document: Mapping[str, Any]) -> str:
    """Where the release is and what the gate said of it."""
    gate = document["gate"]
    views = "; ".join(f"{view}: " + ", ".join(f"{n} {s}" for s, n in by.items()) for view, by in document["views"].items())
    lines = [f"{document['rows']} images in {document['release']} ({views})", f"digest {document['digest']}"]
    lines.append(
        f"gate {gate['verdict']}: {number(gate['value'])} balanced accuracy without a pixel (limit {gate['limit']:.2f})"
    )
    return "\n".join(lines)


def doctor_text(checks: Sequence[Mapping[str, Any]]) -> str:
    """One line a check, and under it what mends it."""
    lines = []
    for check in checks:
        lines.append(f"{'ok  ' if check['ok'] else 'no  '}{check['name']}: {check['detail']}")
        lines += [f"    {check['remedy']}"] if check["remedy"] and not check["ok"] else []
    return "\n".join(lines)


def results_text(document: Mapping[str, Any], track: str = "both") -> str:
    """What a detector reached, and the controls that say what it is worth."""
    parts = [f"{document['detector']} on {document['test']['images']} test images in {document['test']['groups']} groups"]
    if track in ("origin", "both"):
        origin = document["tracks"]["origin"]
        keys = ("auc", "ap", "balanced_accuracy", "tpr_at_fpr_1e-2", "ece", "threshold")
        parts.append(
            columns([["origin", *(origin[key] for key in keys), interval(origin["ci95"])]], ["track", *keys, "AUC ci95"])
        )
        parts += [f"  {key}: {why}" for key, why in origin.get("reasons", {}).items()]
        rows = [
            [kind, name, figures.get("images"), figures["auc"], figures["balanced_accuracy"]]
            for kind, found in (("generator", document["by_generator"]), ("content type", document["by_content_type"]))
            for name, figures in found.items()
        ]
        parts.append(columns(rows, ["by", "name", "images", "auc", "balanced_accuracy"]))
    if track in ("generator", "both"):
        named = document["tracks"]["generator"]
        rows = [[kind, f["accuracy"], f["balanced_accuracy"], f["macro_auc"]] for kind, f in named.items()]
        parts.append(columns(rows, ["track", "accuracy", "balanced_accuracy", "macro_auc"]))
    controls = [f"  {name}: {said}" for name, said in document["controls"].items()]
    return "\n".join([*parts, "controls:", *controls])


def verdicts_text(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """One line an image; the limits of the checkpoint once, at the end."""
    lines = []
    for verdict in verdicts:
        if "error" in verdict:
            lines.append(f"{verdict['path']}: {verdict['error']}")
            continue
        maker = f", looks like {verdict['generator']} ({number(verdict['p_generator'], 2)})" if verdict["generator"] else ""
        lines.append(f"{verdict['path']}: {verdict['verdict']}, P(synthetic) {number(verdict['p_synthetic'])}{maker}")
    notes = dict.fromkeys(str(verdict["note"]) for verdict in verdicts if verdict.get("note"))
    return "\n".join([*lines, *notes])
