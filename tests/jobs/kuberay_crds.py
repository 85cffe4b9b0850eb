"""KubeRay's definitions of its resources as schemas that take no field they do not name, as ``kubectl`` does not."""

from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml


@lru_cache
def validator(folder: Path, kind: str) -> jsonschema.Draft4Validator:
    """Gives what checks a resource as it is written into a file.

    Args:
        folder: Of the definitions, a file each.
        kind: Of the resource, such as ``RayJob``.
    """
    definition = yaml.load((folder / f"ray.io_{kind.lower()}s.yaml").read_bytes(), yaml.CSafeLoader)
    (version,) = (version for version in definition["spec"]["versions"] if version["name"] == "v1")
    # OpenAPI's schemas are next of kin to this draft.
    return jsonschema.Draft4Validator(closed(version["schema"]["openAPIV3Schema"]))


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Gives a schema that refuses what it does not name; Kubernetes would drop it without a word."""
    schema = dict(schema)
    if "properties" in schema:
        schema["properties"] = {name: closed(value) for name, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = closed(schema[key])
    return schema
