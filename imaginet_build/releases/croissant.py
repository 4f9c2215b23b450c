"""`croissant.json`: a release for machines, in the vocabulary that dataset search engines and loaders share.

Croissant 1.1 (https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html) with the properties of its extension for
responsible AI, RAI 1.0. It ships in the release because the Hub's own Croissant drops the RAI properties.

Every Parquet file is a FileObject with its SHA-256. A config is a record set over a FileSet, which is how `records()` reads
many files one after another; since a reader does not check the hash of a file in a set, every shard is a small record set
too, whose hash is proved before its first record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from imaginet_build.releases.cardfacts import Measured
from imaginet_build.releases.configs import Config

if TYPE_CHECKING:
    from imaginet_build.releases.datasetcard import About

Node = dict[str, Any]

CONFORMS_TO = ("http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0")
CONTEXT: Node = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "arrayShape": "cr:arrayShape",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "containedIn": "cr:containedIn",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isArray": "cr:isArray",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "name": {"@container": "@language"},
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The context of the specification; a reader warns of any other."""

PARQUET = "application/x-parquet"
SHARD_FIELDS = ("id", "label", "sha256", "image")
"""What the record set of one shard holds, as far as the shard does."""

_TYPES = {
    "string": "sc:Text",
    "int64": "cr:Int64",
    "int32": "cr:Int32",
    "float32": "cr:Float32",
    "float64": "cr:Float64",
    "bool": "sc:Boolean",
}


def describe(
    facts: Measured,
    about: About,
    inventory: Mapping[str, Mapping[str, object]],
    *,
    gate: Mapping[str, Any] | None,
    limits: Sequence[str],
    version: str,
) -> Node:
    """The JSON-LD document of a release. `inventory`: SHA-256 and size of its files; the Parquet files among them are named."""
    shards = {path: hashes for path, hashes in inventory.items() if path.endswith(".parquet")}
    default = facts.configs[0]
    said = about.statements
    document = {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": list(CONFORMS_TO),
        "name": about.title,
        "description": about.description or f"{facts.rows} images for telling synthetic images from real ones.",
        "license": list(facts.licences),
        "url": f"https://huggingface.co/datasets/{about.repo}" if about.repo else None,
        "version": version or None,
        "datePublished": said.get("published"),
        "citeAs": about.citation or None,
        "creator": {"@type": "sc:Organization", "name": said["creators"]} if "creators" in said else None,
        "keywords": ["synthetic image detection", "AI-generated images"],
        **_rai(facts, about, gate, limits),
        "distribution": [
            *(_file_object(path, hashes) for path, hashes in shards.items()),
            *(_file_set(config) for config in facts.configs),
        ],
        "recordSet": [
            *(_classes(name, feature["names"]) for name, feature in default.features.items() if "names" in feature),
            *(_config(config) for config in facts.configs),
            *(record for config in facts.configs if not config.of for record in _shards(config)),
        ],
    }
    return {key: value for key, value in document.items() if value is not None}


def _file_object(path: str, hashes: Mapping[str, object]) -> Node:
    return {
        "@type": "cr:FileObject",
        "@id": path,
        "name": path,
        "contentUrl": path,
        "contentSize": f"{hashes['nbytes']} B",
        "encodingFormat": PARQUET,
        "sha256": hashes["sha256"],
    }


def _file_set(config: Config) -> Node:
    return {
        "@type": "cr:FileSet",
        "@id": f"files-of-{config.name}",
        "name": f"files-of-{config.name}",
        "description": config.what,
        "encodingFormat": PARQUET,
        "includes": [path for paths in config.data_files.values() for path in paths],
    }


def _classes(name: str, names: Sequence[str]) -> Node:
    """The names behind the numbers of one column, in label order."""
    return {
        "@type": "cr:RecordSet",
        "@id": f"names-of-{name}",
        "name": f"names-of-{name}",
        "dataType": "sc:Enumeration",
        "key": {"@id": f"names-of-{name}/number"},
        "field": [
            {"@type": "cr:Field", "@id": f"names-of-{name}/number", "name": "number", "dataType": "cr:Int64"},
            {"@type": "cr:Field", "@id": f"names-of-{name}/name", "name": "name", "dataType": "sc:Text"},
        ],
        "data": [{f"names-of-{name}/number": i, f"names-of-{name}/name": text} for i, text in enumerate(names)],
    }


def _config(config: Config) -> Node:
    source = {"fileSet": {"@id": f"files-of-{config.name}"}}
    split = {
        "@type": "cr:Field",
        "@id": f"{config.name}/split",
        "name": "split",
        "description": "train, calibration or test",
        "dataType": "sc:Text",
        "source": {
            **source,
            "extract": {"fileProperty": "fullpath"},
            "transform": {"regex": "^.*/([a-z]+)-[^/]*$"},
        },
    }
    return {
        "@type": "cr:RecordSet",
        "@id": config.name,
        "name": config.name,
        "description": f"{config.what}: {sum(config.rows.values())} rows",
        **({"key": {"@id": f"{config.name}/id"}} if "id" in config.features else {}),
        "field": [split, *(_field(config.name, source, name, f) for name, f in config.features.items())],
    }


def _shards(config: Config) -> Iterator[Node]:
    wanted = {name: config.features[name] for name in SHARD_FIELDS if name in config.features}
    for paths in config.shards.values():
        for path in paths:
            place = config.place(path)
            yield {
                "@type": "cr:RecordSet",
                "@id": f"rows-of-{place}",
                "name": f"rows-of-{place}",
                "description": "one shard, its hash proved before the first record",
                "field": [_field(f"rows-of-{place}", {"fileObject": {"@id": place}}, name, f) for name, f in wanted.items()],
            }


def _field(record_set: str, source: Node, name: str, feature: Mapping[str, Any]) -> Node:
    node: Node = {
        "@type": "cr:Field",
        "@id": f"{record_set}/{name}",
        "name": name,
        "dataType": "sc:ImageObject" if feature["_type"] == "Image" else _TYPES[str(feature.get("dtype", "int64"))],
        "source": {**source, "extract": {"column": name}},
    }
    if feature["_type"] == "Image":
        node["source"]["transform"] = {"jsonPath": "bytes"}
    if feature["_type"] == "ClassLabel":
        node["description"] = f"a number of the record set 'names-of-{name}'"
    return node


def _rai(facts: Measured, about: About, gate: Mapping[str, Any] | None, limits: Sequence[str]) -> Node:
    """Responsible AI: what can be counted is; what the recipe does not state is said not to be stated."""
    said = about.statements

    def stated(*keys: str) -> str:
        return " ".join(said.get(key) or f"Not stated (recipe key publish.about.{key})." for key in keys)

    makers: dict[str, list[str]] = {}
    for name, label in sorted({(row["generator_or_source"], row["label"]) for row in facts.composition}):
        makers.setdefault(label, []).append(name)
    missing = [f"{name}: {n} of {facts.rows} rows" for name, n in facts.empty.items()]
    audit = (
        f"The audit's verdict on what can be guessed without looking at the picture is {gate['verdict']}."
        if gate
        else "Not audited."
    )
    cells = {(row["content_type"], row["label"]): 0 for row in facts.composition}
    for row in facts.composition:
        cells[row["content_type"], row["label"]] += row["rows"]
    return {
        "rai:dataCollection": " ".join(
            f"{facts.labels[label]} {label} images come from: {', '.join(names)}." for label, names in sorted(makers.items())
        ),
        "rai:dataCollectionType": [
            kind
            for label, kind in (("real", "Secondary Data Analysis"), ("synthetic", "Software Collection"))
            if facts.labels[label]
        ],
        "rai:dataCollectionMissingData": f"Columns without a value in some rows: {'; '.join(missing) or 'none'}.",
        "rai:dataCollectionRawData": "The view 'native' holds every image as it was born or delivered."
        if "native" in facts.views
        else "Images as they were born or delivered are not in this release.",
        "rai:dataImputationProtocol": "No value was filled in; what is not known is null.",
        "rai:dataPreprocessingProtocol": [
            f"Left out before this release: {sum(facts.rejects.values())} images, each with its reason in rejects.parquet.",
            *(
                ["The view 'equalized' gives both classes one law of crop, size and encoding."]
                if "equalized" in facts.views
                else []
            ),
        ],
        "rai:dataAnnotationProtocol": "No person labelled images: label, family and generator follow from where each is from.",
        "rai:dataBiases": [
            audit,
            *(f"{n} {label} images are of content type {name}." for (name, label), n in sorted(cells.items())),
        ],
        "rai:dataLimitations": list(limits) or ["None that the composition shows."],
        "rai:dataUseCases": [stated("uses")],
        "rai:dataSocialImpact": stated("misuse", "review"),
        "rai:personalSensitiveInformation": [stated("people"), stated("sensitive"), stated("consent")],
        "rai:dataReleaseMaintenancePlan": stated("maintainer", "updates"),
    }
