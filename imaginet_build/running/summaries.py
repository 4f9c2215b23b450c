"""What commands say to people: the documents that `--json` prints, as a few lines of text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from imaginet_build.running.rebuilding import rights_lines

_MOST_QUOTAS = 20


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
    filled, cells = done["cells_filled"].split(" of ")
    rest = "" if filled == cells else "  (build-imaginet balance says what would fill the others)"
    return "\n".join(
        [
            f"images          {done['images']}",
            f"twins removed   {done['twins_removed']}",
            f"cells filled    {done['cells_filled']}{rest}",
            f"audit value     {audit}  balanced accuracy of guessing the label without a pixel; 0.5 is chance",
            f"baseline AUC    {number(done['baseline_auc'])}",
            f"rejected        {done['rejected']}, each with its reason in rejects.parquet",
            f"release         {done['release']}",
            f"report          {done['report']}",
        ]
    )


def collected_text(document: Mapping[str, Any]) -> str:
    """What came, what was refused and why, each quota, each choice with its distances before and after."""
    parts = [f"{document['new']} images collected, {document['total']} in all" + reasons(document["rejected"])]
    lines = document["availability"]
    short = sorted(lines, key=lambda line: -line["given_up"])[:_MOST_QUOTAS]
    keys = ("asked", "had", "failed", "refused", "replaced", "given_up")
    if any(line["failed"] or line["refused"] or line["given_up"] or line["stratum"] for line in lines):
        rows = [[line["source"], line["category"] or "any", line["stratum"] or "", *(line[k] for k in keys)] for line in short]
        parts.append(columns(rows, ["source", "category", "stratum", *(key.replace("_", " ") for key in keys)]))
    if len(lines) > len(short):
        parts.append(f"and {len(lines) - len(short)} more quotas: availability.parquet in the work folder has them all")
    if later := sum(line["later"] for line in lines):
        parts.append(f"{later} left for later by --limit: the same command without it brings them")
    for choice in document["matching"]:
        drawn = ", ".join(f"{count} {kind}" for kind, count in choice["reference"].items())
        parts.append(
            f"{choice['source']}, {choice['category']}: {choice['chosen']} of {choice['candidates']} candidates match "
            f"{', '.join(choice['generators'])} ({drawn}); subject: {choice['subject']}"
        )
        if choice["before"] is not None:
            rows = [[name, choice["before"][name], choice["after"][name]] for name in choice["before"]]
            parts.append(columns(rows, ["distance to the generators", "before", "after"]))
    parts += [f"{source}: {check} was not checked: {why}" for source, all_ in document["unchecked"].items()
              for check, why in all_.items()]  # fmt: skip
    parts += [f"{source} broke off: {why}" for source, why in document["broken"].items()]
    if again := may_come_back(document):
        parts.append(again)
    return "\n\n".join(parts)


def may_come_back(document: Mapping[str, Any]) -> str:
    """How many of what could not be had may be had another time, and by which command; nothing where there are none."""
    count = sum(line["may_come_back"] for line in document["availability"])
    return f"{count} may come back: build-imaginet collect --retry" if count else ""


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
            f"{twins['label_conflicts_removed']} label conflicts removed\n{twins['radius']} bits: {twins['radius_reason']}",
            *contamination_notes(document),
            *_balance_notes(document),
        ]
    )


def _balance_notes(document: Mapping[str, Any]) -> list[str]:
    """What would fill the cells, how alike the classes are, and how sure the plan is the best."""
    parts = []
    if document["buckets"]:
        keys = ("category", "origin", "bucket", "asked", "kept", "reason")
        parts.append(columns([[b[key] for key in keys] for b in document["buckets"]], keys))
    if document["add"]:
        fields = ("category", "origin", "generator_or_source", "count", "min_side", "max_side", "aspect")
        rows = [[a[key] for key in fields] for a in document["add"]]
        head = ["category", "origin", "generator or source", "images", "at least px", "at most px", "aspect"]
        whose = " (any: of whoever has a weight in the recipe)" if any(row[2] == "any" for row in rows) else ""
        parts.append(f"these would fill every cell{whose}:\n" + columns(rows, head))
    born, law = document["law"]["native"], document["law"]["equalized"]
    said = ", ".join(f"{name} {number(born[name])} -> {number(law[name])}" for name in born)
    parts.append(f"KS distance between the classes, as born -> in the equalized view's law: {said}")
    spent = document["bytes_per_pixel"]
    parts.append(f"bytes per pixel as born: real {number(spent['real'])}, synthetic {number(spent['synthetic'])}")
    gap = max((solved["gap"] for solved in document["programmes"]), default=0.0)
    placed = sum(solved["placed"] for solved in document["programmes"])
    best = "solved to the optimum" if gap == 0 else f"at most {100 * gap:.2g} % from its optimum"
    beside = f"; {placed:,} groups of rare composition were placed by their shares, beside it" if placed else ""
    parts.append(f"the integer programme is {best}{beside}")
    return parts


def plan_difference_text(document: Mapping[str, Any]) -> str:
    """What a plan decides otherwise than another, cell by cell."""
    kinds = ("added", "removed", "moved", "changed_view")
    facts = {"same": "from the same images", "changed": "from other images", "unknown": "from images it does not name"}
    head = f"beside {document['other']}, made {facts[document['facts']]}"
    if document["same"]:
        said = "the same plan: every image kept, its split and its view"
    else:
        said = ", ".join(f"{document[kind]:,} {kind.replace('_', ' ')}" for kind in kinds)
    rows = [[c["category"], c["origin"], c["generator_or_source"], *(c[kind] for kind in kinds)] for c in document["cells"]]
    parts = [f"{head}: {said}", *(f"  {line}" for line in document["settings"])]
    names = ["category", "origin", "generator or source", "added", "removed", "other split", "other view"]
    return "\n".join(parts) + (f"\n\n{columns(rows, names)}" if rows else "")


def contamination_notes(document: Mapping[str, Any]) -> list[str]:
    """What each sketch holds of the images, with examples."""
    parts = []
    if "embedding_groups" in document.get("duplicates", {}):
        twins = document["duplicates"]
        parts.append(f"a model finds {twins['embedding_images']} images alike, tied into {twins['embedding_groups']} groups")
    for one in document.get("contamination", []):
        edition = f" {one['version']}" if one["version"] else ""
        lines = [
            f"contamination: {one['name']}{edition} ({one['count']:,} images) holds {one['equal']} of {one['rows']:,} images "
            f"and near-duplicates of {one['near']} more, {100 * one['share']:.2f} %"
        ]
        lines += [f"  {e['id']} is {e['kind']} to {e['path']}" for e in one["examples"][:5]]
        if one["examples"] and "cells" in document:
            lines.append("  to leave them out: build-imaginet balance --sketch FILE --reject-contaminated")
        parts.append("\n".join(lines))
    return parts


def sketch_text(document: Mapping[str, Any]) -> str:
    """What was written, and what could not be read."""
    per = document["nbytes"] / document["count"]
    what = f"{document['name']} {document['version']}".strip()
    lines = [f"{document['path']}: {document['count']:,} images of {what}, {per:.0f} bytes each"]
    if document["unreadable"]:
        lines.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in document["unreadable"].items()))
        lines += [f"  {example}" for example in document["examples"]]
    return "\n".join(lines)


def audit_text(document: Mapping[str, Any]) -> str:
    """The verdict, how well each probe guesses, what is reported beside the gate, and what removes each leak."""
    gate = document["gate"]
    head = [
        f"{document['target']}: {document['rows']} rows",
        f"gate {gate['verdict']}: {gate['reason']}",
        f"all no-pixel probes together guess real or synthetic at {number(gate['value'])} balanced accuracy (limit "
        f"{gate['limit']:.2f}, 95 % of shuffled labels stay below {number(gate['permutation95'])}, {gate['groups']} groups)",
    ]
    if tested := gate.get("self_test"):
        found = "found" if tested["caught"] else f"missed, it could be chance ({', '.join(tested['missed'])})"
        planted = f"a marker planted on {tested['groups'][0]} real or {tested['groups'][1]} synthetic groups was {found}"
        if tested["caught"] and tested.get("thin"):
            planted += f", but only on whole groups: on one row of each it was missed ({', '.join(tested['thin'])})"
        head.append(f"self-test: {tested['few'] or planted}")
    shown = [p for p in document["probes"] if p["scope"] == "all"]
    rows = [
        [
            p["track"],
            p["view"] or "-",
            p["probe"],
            f"{p['balanced_accuracy']:.4f}",
            number(p["auc"]),
            interval(p["ci95"]),
            p["p"],
        ]
        for p in shown
        if p["gate"] and (p["track"] == "origin" or p["probe"] in ("extension", "extension+content_type", "all"))
    ]
    names = ["track", "view", "probe", "balanced accuracy", "AUC", "95 % interval", "p"]
    table = columns(rows, names) + "\n(every probe, track and content type: --json)"
    few = "\n".join(f"  {one['track']}, {one['scope']}: {one['what']}" for one in document.get("skipped", [])[:9])
    parts = ["\n".join(head), table if rows else "no probe could be cross-fitted:\n" + few]
    notes = document.get("notes", {})
    beside = [
        [p["view"] or "-", p["probe"], f"{p['balanced_accuracy']:.4f}", interval(p["ci95"]), p["p"], notes.get(p["probe"], "")]
        for p in shown
        if p["track"] == "origin" and not p["gate"]
    ]
    if beside:
        table = columns(beside, ["view", "probe", "balanced accuracy", "95 % interval", "p", "expected"])
        parts.append("beside the gate, never held against the data:\n" + table)
    leaks = []
    for leak in document["leaks"]:
        value = "" if leak["value"] is None else f" = {leak['value']}"
        among = "" if leak["scope"] == "all" else f" among {leak['scope']}"
        leaks.append(f"  {leak['view'] or ''} {leak['probe']}{value}{among}: {leak['remedy']}")
        leaks += [f"      such as {', '.join(leak['examples'][:2])}"] if leak["examples"] else []
    parts += ["leaks, and what removes each:\n" + "\n".join(leaks)] if leaks else []
    parts += contamination_notes(document)
    unreadable = document.get("unreadable", [])
    if unreadable:
        counts = Counter(one["reason"] for one in unreadable)
        some = "\n".join(f"  {one['path']}: {one['reason']}, {one['detail']}" for one in unreadable[:5])
        parts.append(f"{len(unreadable)} could not be used{reasons(dict(counts.most_common()))}\n{some}")
    return "\n\n".join(parts)


def interval(bounds: Sequence[float] | None) -> str:
    """`0.71-0.83`."""
    return "-" if bounds is None else f"{bounds[0]:.3f}-{bounds[1]:.3f}"


def forecast_text(document: Mapping[str, Any]) -> str:
    """What would be done."""
    lines = [f"{document['recipe']} in {document['work']}: nothing was done, this is what would be"]
    if document["composition"]["rows"]:
        lines += ["", composition_text(document["composition"]), ""]
    for entry in document.get("collect", []):
        options = ", ".join(f"{key} {value}" for key, value in entry["options"].items())
        what = f"{entry['images']} images of {entry['category'] or 'every category'}"
        lines.append(f"collect   {entry['source']}: {what}{f' ({options})' if options else ''}")
        lines += [f"          {need}" for need in entry["missing"]]
    for entry in document.get("generate", []):
        lines.append(
            f"generate  {entry['generator']}: {entry['images']} images of {entry['category']} in {entry['batches']} batches"
        )
        lines += [f"          {need}" for need in entry["missing"]]
        lines += [f"          {said}" for said in bill_lines(entry["paid"])] if "paid" in entry else []
    here = document.get("collected", 0) + document.get("generated", 0)
    lines.append(f"here already: {here} images")
    return "\n".join(lines)


def bill_lines(bill: Mapping[str, Any]) -> list[str]:
    """What images would cost that are bought, how long they would take, and what was spent."""
    usd = bill["usd"]
    cost = (
        "dollars not known" if usd is None else f"${usd[0]:,.2f}" if usd[0] == usd[1] else f"${usd[0]:,.2f} to ${usd[1]:,.2f}"
    )
    hours = "hours not known before the first image: give options.per_minute, the account's rate limit"
    hours = hours if bill["hours"] is None else f"about {bill['hours']:,.1f} hours" if bill["hours"] >= 1 else "under an hour"
    how = "orders in batches, drawn within a day each" if bill["mode"] == "batch" else "requests"
    spent = f"spent so far: ${bill['spent_usd']:,.2f} for {bill['spent_images']:,} images"
    lost = f", {bill['unknown']:,} of them of unknown outcome" if bill["unknown"] else ""
    limits = [f"{key} = {bill[key]:,}" for key in ("budget_usd", "budget_images") if bill[key] is not None]
    return [
        f"{bill['images']:,} images left: {bill['requests']:,} {how}, {cost}, {hours}",
        f"prices {bill['price']}",
        f"{spent}{lost}; {' and '.join(limits) or 'no budget is set: options.budget_usd, options.budget_images'}",
    ]


def composition_text(document: Mapping[str, Any]) -> str:
    """The table of what is asked for, cell by cell, its sums, and whether both halves are equal."""

    def count(images: int | None) -> str:
        return "all there are" if images is None else f"{images:,}"

    body = [
        [r["category"], r["origin"], r["generator_or_source"], count(r["images"]), ", ".join(r["by"])] for r in document["rows"]
    ]
    width = max(len("images"), *(len(row[3]) for row in body))
    body = [[*row[:3], row[3].rjust(width), row[4]] for row in body]
    lines = [columns(body, ["content type", "origin", "source or generator", "images".rjust(width), "by"]), ""]
    lines += [f"{s['category']}: {count(s['real'])} real, {count(s['synthetic'])} synthetic" for s in document["sums"]]
    total = f"{count(document['images'])} images: {count(document['real'])} real, {count(document['synthetic'])} synthetic"
    said = {True: "; every content type has as many of one as of the other", False: "; the halves are not equal", None: ""}
    return "\n".join([*lines, total + said[document["equal"]]])


def prompts_text(document: Mapping[str, Any]) -> str:
    """Counts, what is double, and a sample of prompts."""
    by = ", ".join(f"{count} {name}" for name, count in document["categories"].items())
    lines = [
        f"{document['count']} prompts ({by}), {document['duplicates']} near-identical, {document['named']} naming a person",
        f"{document['words_mean']:.1f} words in the mean, {document['words_max']} at most",
    ]
    for slot, counts in document["balance"].items():
        low, high = min(counts.values()), max(counts.values())
        each = f"{low} each" if low == high else f"{low} to {high} each"
        lines.append(f"{slot}: {len(counts)} words, {each}")
    return "\n".join([*lines, *(f"  {text}" for text in document["sample"])])


def published_text(document: Mapping[str, Any]) -> str:
    """Where the release is and what the gate said of it."""
    gate = document["gate"]
    views = "; ".join(f"{view}: " + ", ".join(f"{n} {s}" for s, n in by.items()) for view, by in document["views"].items())
    lines = [f"{document['rows']} images in {document['release']} ({views})"]
    lines.append(f"version {document['version']}, digest {document['digest']}")
    if document["added"] or document["withdrawn"]:
        lines.append(
            f"{document['added']} images added, {document['withdrawn']} withdrawn; {document['rewritten']} bytes of older data "
            "files were written again"
        )
    lines.append(
        f"gate {gate['verdict']}: {number(gate['value'])} balanced accuracy without a pixel (limit {gate['limit']:.2f})"
    )
    for view, alike in document["likeness"].items():
        spent, ks = alike["bytes_per_pixel"], alike["ks"]
        lines.append(
            f"{view}: bytes per pixel {number(spent['real'])} real, {number(spent['synthetic'])} synthetic; KS distance of the "
            f"classes {number(ks['size'])} in size, {number(ks['aspect'])} in aspect, {number(ks['quality'])} in quality"
        )
    return "\n".join([*lines, *rights_lines(document), *_delivered_text(document)])


def _delivered_text(document: Mapping[str, Any]) -> list[str]:
    """What travelled where, where a release left this machine."""
    gone = document.get("pushed") or document.get("placed")
    if gone is None:
        return []
    lines = [f"{gone['url']}: {gone['sent']} files sent ({gone['nbytes'] / 1e6:.1f} MB), {gone['same']} there already"]
    if gone["deleted"]:
        lines.append(f"deleted there, of the release before: {', '.join(gone['deleted'])}")
    if gone["kept"]:
        lines.append(f"left there, of somebody else: {', '.join(gone['kept'])}")
    if "commit" in gone:
        read = gone["read_back"]
        rows = f"{'all' if read['whole'] else 'a sample of'} {read['rows']} rows read back, {read['images']} images hashed"
        named = f", tagged {gone['tag']}" if gone["tag"] else ""
        lines.append(f"commit {gone['commit']}{named}, {'private' if gone['private'] else 'public'}; {rows}")
    return lines


def doctor_text(checks: Sequence[Mapping[str, Any]]) -> str:
    """One line a check, and under it what mends it."""
    lines = []
    for check in checks:
        lines.append(f"{'ok  ' if check['ok'] else 'no  '}{check['name']}: {check['detail']}")
        lines += [f"    {check['remedy']}"] if check["remedy"] and not check["ok"] else []
    return "\n".join(lines)


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


def checked_text(document: Mapping[str, Any]) -> str:
    """What a release's own files say of it, and where that is not so."""
    lines = [f"{document['rows']} rows, {document['files']} files in {document['release']}: "]
    lines[0] += f"{len(document['faults'])} faults" if document["faults"] else "every hash and every number is right"
    if not document["counted"]:
        lines[0] += ", its numbers not counted, since files are damaged or missing: take an intact copy"
    else:
        lines[0] += ", the audit made again" if document["audited"] else ", no audit to compare"
    return "\n".join([*lines, *(f"  {fault}" for fault in document["faults"])])
