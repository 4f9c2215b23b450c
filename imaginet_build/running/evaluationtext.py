"""What `baseline evaluate` says to people: the worst generator first, the controls in words, a reason for what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from imaginet_build.running.summaries import columns, number

_ORIGIN = ("auc", "ap", "balanced_accuracy", "tpr_at_fpr_1e-2", "tpr_at_fpr_1e-3", "eer", "ece", "brier", "cllr")
_PARTS = (
    ("generator", "by_generator"),
    ("family", "by_family"),
    ("content type", "by_content_type"),
    ("source", "by_source"),
    ("size", "by_size"),
)


def text(document: Mapping[str, Any], track: str = "both") -> str:
    """One detector, or a leaderboard."""
    return board(document) if "leaderboard" in document else one(document, track)


def one(document: Mapping[str, Any], track: str = "both") -> str:
    """What a detector reached, and the controls that say what it is worth."""
    test = document["test"]
    parts = [
        f"{document['detector']} on {test['images']} test images in {test['groups']} groups of {test['name']}, {test['layout']}"
    ]
    parts[0] += f", under {test['condition']}" if test.get("condition") else ""
    parts += _contamination(document)
    if track in ("origin", "both"):
        parts += [_headline(document["headline"]), _origin(document["tracks"]["origin"]), _parts(document)]
        parts += _later(document["by_release"]) + _left_out(document) + _robust(document) + _paper(document["published"])
    if track in ("generator", "both"):
        parts.append(_names(document["tracks"]["generator"]))
    parts.append("controls:\n" + "\n".join(f"  {line}" for line in _controls(document["controls"])))
    return "\n\n".join(parts)


def _headline(head: Mapping[str, Any]) -> str:
    if head["worst"] is None:
        return f"worst generator: {head['reason']}"
    rows = []
    for name, said in head["worst"].items():
        mean = head["mean"][name]
        rows.append([name, said["generator"], said["value"], interval(said["ci95"]), mean["value"], interval(mean["ci95"])])
    return columns(rows, ["", "worst generator", "reaches", "95 %", f"mean of {head['generators']}", "95 %"])


def _origin(origin: Mapping[str, Any]) -> str:
    rows = [[name, origin[name], interval(origin["intervals"].get(name)), origin["reasons"].get(name, "")] for name in _ORIGIN]
    rows.append(
        [
            "threshold",
            origin["threshold"],
            "-",
            origin["reasons"].get("threshold") or f"frozen on the {origin['threshold_from']}",
        ]
    )
    if origin["oracle"]:
        rows.append(["oracle balanced accuracy", origin["oracle"]["balanced_accuracy"], "-", origin["oracle"]["what"]])
    return columns(rows, ["origin", "value", "95 %", ""])


def _parts(document: Mapping[str, Any]) -> str:
    named = [(kind, name, f) for kind, key in _PARTS for name, f in document[key].items()]
    named += [("released", name, f) for name, f in document["by_release"]["windows"].items()]
    plain = ("n_real", "n_synthetic", "auc"), ("balanced_accuracy", "found", "false_alarms")
    rows = [
        [kind, name, *(f[key] for key in plain[0]), interval(f["ci95"]), *(f[key] for key in plain[1])]
        for kind, name, f in named
    ]
    head = ["by", "name", "real", "synthetic", "auc", "95 %", "balanced accuracy", "found", "false alarms"]
    return columns(rows, head)


def _later(release: Mapping[str, Any]) -> list[str]:
    later = release.get("later_than_training")
    if not later:
        return []
    which = ", ".join(later["generators"])
    return [f"released after everything it learned from ({release['newest_trained']}): {which}: AUC {number(later['auc'])}"]


def _left_out(document: Mapping[str, Any]) -> list[str]:
    found = document.get("leave_one_out")
    if found is None:
        return []
    keys = ("auc", "balanced_accuracy", "found", "seen", "lost")
    rows = [[name, *(f.get(key) for key in keys)] for name, f in found["generators"].items()]
    end = f"worst: {found['worst']}, mean AUC {number(found['mean'])}" if found["worst"] else found["reason"]
    return [
        "leave one generator out:\n"
        + columns(rows, ["left out", "auc", "balanced accuracy", "found", "auc if seen", "lost"])
        + f"\n{end}"
    ]


def _robust(document: Mapping[str, Any]) -> list[str]:
    found = document.get("robustness")
    if found is None:
        return []
    plain, sided = found["plain"], found["one_sided"]
    shown = list(
        dict.fromkeys(name for name in (plain, "social", found["worst"], sided.get("worst")) if name in found["conditions"])
    )
    rows = [
        [name, f["auc"], interval(f["ci95"]), f["balanced_accuracy"], f["lean"]]
        for name, f in ((name, found["conditions"][name]) for name in shown)
    ]
    table = columns(rows, ["condition", "auc", "95 %", "balanced accuracy", "lean"])
    return [
        f"robustness, {len(found['conditions'])} conditions (all: --json), worst: {found['worst']}; one-sided bias "
        f"{number(sided['score'])}, 0 is best\n{table}"
    ]


def _paper(published: Mapping[str, Any]) -> list[str]:
    # The parts of a release of another make are other images: without the paper's mean they would be compared in vain.
    if not any("mean" in line["test"] for line in published["rows"]):
        return []
    rows = [
        [
            line["test"],
            *(value for name in ("balanced_accuracy", "auc") for value in (
                line["ours"][name], line["published"][name], line["tick"][name] or "-"
            )),
        ]
        for line in published["rows"]
    ]  # fmt: skip
    head = ["published test", "balanced accuracy", "published", "tick", "auc", "published", "tick"]
    note = f"\n{published['reason']}" if published.get("reason") else ""
    return [columns(rows, head) + f"\n{published['what']}{note}"]


def _names(named: Mapping[str, Any]) -> str:
    rows, notes = [], []
    for kind in ("by_generator", "by_family"):
        f = named[kind]
        opened = f.get("open_set", {})
        rows.append([kind, f["accuracy"], f["balanced_accuracy"], f["macro_auc"], opened.get("oscr"), opened.get("rejected")])
        why = f.get("reason") or f.get("reasons", {}).get("accuracy") or opened.get("reason")
        notes += [f"  {kind}: {why}"] if why else []
    table = columns(rows, ["generator track", "accuracy", "balanced accuracy", "macro auc", "oscr", "unknown rejected"])
    return "\n".join([table, *notes])


def _controls(controls: Mapping[str, Any]) -> list[str]:
    permuted, bias = controls["permuted_labels"], controls["bias"]
    lines = []
    if permuted["mean"] is None:
        lines.append(f"permuted labels: {permuted['reason']}")
    else:
        lines.append(
            f"permuted labels reach an AUC of {number(permuted['mean'])} on average, {interval(permuted['range95'])} in 95 % "
            f"of {permuted['times']}: below {number(permuted['reachable'])} an AUC on this test is no evidence"
        )
    lines.append(f"smoothness, {controls['smoothness']['verdict']}: {controls['smoothness']['words']}")
    if bias["score"] is None:
        lines.append(f"one class treated alone: {bias['reason']}")
    else:
        lines.append(f"one class treated alone moves P(synthetic) by {number(bias['score'])} ({bias['worst']}); 0 is best")
    return lines


def _contamination(document: Mapping[str, Any]) -> list[str]:
    said = document.get("contamination")
    if said is None:
        return []
    if not said["checked"]:
        return [f"contamination was not checked: {said['reason']}"]
    names = ", ".join(f"{one['name']} ({one['count']:,} images)" for one in said["checked"])
    if not said["held"]:
        return [f"contamination: none of the test's images is in {names}"]
    done = "left out" if said["left_out"] else "kept all the same"
    some = "".join(f"\n  {e['id']} is {e['kind']} to {e['path']}" for one in said["checked"] for e in one["examples"][:5])
    return [f"contamination: {said['held']} images of the test are in {names}; {done}{some}"]


def board(document: Mapping[str, Any]) -> str:
    """The table of detectors, the differences that are sure, and where the plot is."""
    test = document["test"]
    parts = [f"{test['images']} test images in {test['groups']} groups of {test['name']} ({test['layout']})"]
    parts += _contamination(document)
    keys = (
        "worst_auc",
        "worst_generator",
        "mean_auc",
        "auc",
        "chance_reaches",
        "balanced_accuracy",
        "smoothness",
        "worst_condition",
    )
    rows = [[r["rank"], r["detector"], *("-" if r[key] is None else r[key] for key in keys)] for r in document["leaderboard"]]
    parts.append(columns(rows, ["", "detector", *(key.replace("_", " ") for key in keys)]))
    parts += [f"{r['detector']}: {r['how']}" for r in document["leaderboard"] if r["how"]]
    if document["differences"]:
        pairs = [
            [d["first"], d["second"], *_difference(d["auc"]), *_difference(d["balanced_accuracy"])]
            for d in document["differences"]
        ]
        parts.append(
            columns(pairs, ["first", "second", "auc less", "95 %", "balanced accuracy less", "95 %"])
            + "\nthe first less the second on the same resampled groups; an interval without 0 is no accident"
        )
    parts += ["\n".join(document["files"])] if document.get("files") else []
    return "\n\n".join(parts)


def interval(bounds: Sequence[float] | None) -> str:
    """`0.71 to 0.83`; a difference may be below zero, so no dash between."""
    return "-" if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def _difference(said: Mapping[str, Any]) -> Sequence[Any]:
    return said["value"], interval(said["ci95"])
