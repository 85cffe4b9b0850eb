"""Learns the probes that tell what ails a photograph, tries them on scenes and graphics held out, and saves a bundle.

No rating is used. Photographs are taken for clean where they are in pristine/, and otherwise for what they are: of a
fault that the probes find in a photograph of the lake as it is, its versions teach nothing.

Example: python -m benchmarks.build_reasons photos/ --output grepr_core/bundles/grepr-lite-new
"""

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from benchmarks import command_line, graphics
from benchmarks.faults import KINDS, PROBES, Faults, targets
from benchmarks.reason_features import Picture, features_of
from grepr_core.bundles.bundle import load_bundle, save_bundle
from grepr_core.encoders.semantic import SemanticEncoder
from grepr_core.pretraining.distortions import LEVELS
from grepr_core.reasons.fitting import Examples, fit_probes
from grepr_core.reasons.probes import NOT_PHOTO, NOTABLE, SEVERITIES, Diagnosis, Probes

log = logging.getLogger(__name__)

#: Every so manieth pristine photograph is held out.
HELD_OUT = 4
#: Faulty versions of a scene to learn from: with one fault, and with two.
SINGLE, DOUBLE = 2, 2
#: Kinds that alone raise a severity: each scene has one more version of one of them.
ALONE = ("overexposure", "colour_cast")
#: Photographs of the lake that are learned from as they are, besides the scenes.
PLAIN = 600
#: Graphics of each kind, to learn from and to try on.
LEARNED_GRAPHICS, TRIED_GRAPHICS = 40, 25
#: Scenes to try on, of the pristine photographs and of the rated ones; and kinds of fault tried on each, at all levels.
TRIED_SCENES, TRIED_KINDS = 12, 9
#: Least level at which a fault is to be found.
GROSS = 3


class Pictures(NamedTuple):
    """What is learned from, and what the probes are tried on."""

    learned: list[Picture]
    clean: list[Picture]
    lake: list[Picture]
    versions: list[Picture]
    graphics: list[Picture]


def gather(photos: Path, scenes: int) -> Pictures:
    """Chooses photographs, faults and graphics, the same ones every time."""
    rng = np.random.default_rng(0)
    pristine = _names(photos, "pristine")
    lake = _names(photos, "unrated", "more")
    rated = pd.read_csv(photos / "rated.csv")
    held_out = [f"rated/{image}" for image in rated["image"][rated["split"] == "val"]]
    bases = [name for i, name in enumerate(pristine) if i % HELD_OUT]
    bases += [lake[i] for i in rng.choice(len(lake), scenes, replace=False)]
    plain = [lake[i] for i in rng.choice(len(lake), PLAIN, replace=False)]
    learned = [Picture(name) for name in dict.fromkeys([*bases, *plain])]
    for i, name in enumerate(bases):
        learned += [Picture(name, faults) for faults in _some_faults(i, rng)]
    for i, name in enumerate(bases):
        learned.append(Picture(name, ((ALONE[i % len(ALONE)], LEVELS[i // len(ALONE) % len(LEVELS)]),)))
    clean = pristine[::HELD_OUT]
    tried = [*clean[::5][:TRIED_SCENES], *held_out[::25][:TRIED_SCENES]]
    versions = [
        Picture(name, ((kind, level),))
        for name in tried
        for kind in rng.permutation(list(KINDS))[:TRIED_KINDS].tolist()
        for level in LEVELS
    ]
    return Pictures(
        [*learned, *_graphics(graphics.LEARNED, LEARNED_GRAPHICS)],
        [Picture(name) for name in clean],
        [Picture(name) for name in held_out],
        versions,
        _graphics(graphics.HELD_OUT, TRIED_GRAPHICS),
    )


def _names(photos: Path, *folders: str) -> list[str]:
    kinds = (".jpg", ".jpeg", ".png", ".webp")
    found = (path for folder in folders for path in (photos / folder).rglob("*") if path.suffix.lower() in kinds)
    return sorted(str(path.relative_to(photos)) for path in found)


def _some_faults(scene: int, rng: np.random.Generator) -> Iterator[Faults]:
    """Gives the faults of a scene's versions; one at a time, all kinds have their turn."""
    kinds = list(KINDS)
    for turn in range(SINGLE * scene, SINGLE * (scene + 1)):
        yield ((kinds[turn % len(kinds)], int(rng.integers(1, 6))),)
    for _ in range(DOUBLE):
        one, other = rng.choice(kinds, 2, replace=False).tolist()
        yield (one, int(rng.integers(1, 6))), (other, int(rng.integers(1, 6)))


def _graphics(kinds: dict[str, graphics.Draw], count: int) -> list[Picture]:
    return [Picture(kind, seed=seed) for kind in kinds for seed in range(1, count + 1)]


def learn(pictures: Sequence[Picture], features: NDArray[np.float32]) -> Probes:
    """Fits the probes twice: of what the first ones find in a photograph as it is, its versions teach nothing."""
    found = [targets(picture.faults, seed=picture.fault_seed) for picture in pictures]
    severities, known = (np.array(part) for part in zip(*found, strict=True))
    is_graphic = np.array([picture.seed is not None for picture in pictures])
    severities[is_graphic, -1] = 1
    known[is_graphic, :-1] = False
    names, groups = np.unique([picture.source for picture in pictures], return_inverse=True)
    unchanged = np.array([not picture.faults for picture in pictures]) & ~is_graphic
    clean = np.array([picture.source.startswith("pristine/") for picture in pictures]) & unchanged
    columns = np.array([(*SEVERITIES, NOT_PHOTO).index(name) for name in PROBES])
    examples = Examples(features, severities, known, columns, groups, unchanged, clean)
    first = fit_probes(examples, blocks=SemanticEncoder.feature_blocks).diagnose(features)
    faulty = np.zeros((len(names), len(SEVERITIES)), bool)
    faulty[groups[unchanged & ~clean]] = first.severities[unchanged & ~clean] >= NOTABLE
    taught = known.copy()
    taught[:, :-1] &= ~faulty[groups][:, columns[:-1]]
    return fit_probes(replace(examples, known=taught), blocks=SemanticEncoder.feature_blocks)


def try_out(probes: Probes, pictures: Pictures, features: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
    """Prints the tables, and gives what belongs on the model's card."""
    clean, lake, versions, drawn = (probes.diagnose(part) for part in features)
    (kinds, levels) = (np.array(part) for part in zip(*(p.faults[0] for p in pictures.versions), strict=True))
    faults = np.array([KINDS[kind].reason or "" for kind in kinds])
    areas = _print_areas(clean, lake, versions, kinds, levels)
    _print_kinds(versions, pictures.versions)
    _print_confusion(versions, faults, levels)
    print("\n| photographs, as they are | with a reason | which |\n|---|---|---|")
    for name, found in (("pristine, held out", clean), ("rated, held out", lake)):
        reasons = Counter(reason for reason in found.reasons if reason)
        which = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common())
        print(f"| {len(found.reasons)} {name} | {_percent(reasons.total() / len(found.reasons))} | {which} |")
    print("\n| graphics held out | found |\n|---|---|")
    sources = np.array([picture.source for picture in pictures.graphics])
    for kind in graphics.HELD_OUT:
        print(f"| {kind} | {_percent(drawn.not_photo[sources == kind].mean())} |")
    print(f"| all | {_percent(drawn.not_photo.mean())} |\n\n| photographs | taken for none |\n|---|---|")
    for name, found in (("rated", lake), ("pristine", clean), ("with synthetic faults", versions)):
        print(f"| {name} | {_percent(found.not_photo.mean())} |")
    return {
        "learned_from": "synthetic faults of known kind and level, and graphics drawn by code; no ratings",
        "held_out": f"{len({p.source for p in pictures.versions})} scenes, {len(graphics.HELD_OUT)} kinds of graphics",
        f"least_roc_area_from_level_{GROSS}_on": round(min(areas), 3),
        "clean_photographs_with_a_reason": _percent(np.mean([reason is not None for reason in clean.reasons])),
        "graphics_found": _percent(drawn.not_photo.mean()),
        "rated_photographs_taken_for_none": _percent(lake.not_photo.mean()),
    }


def _print_areas(
    clean: Diagnosis, lake: Diagnosis, versions: Diagnosis, kinds: NDArray[np.str_], levels: NDArray[np.int64]
) -> list[float]:
    """Prints areas under the ROC curve by fault and level; gives those of gross faults against clean photographs."""
    print("\n| severity | level | against pristine | against rated | against other faults |\n|---|---|---|---|---|")
    gross = []
    for column, name in enumerate(SEVERITIES):
        of_fault = np.array([KINDS[kind].reason == name for kind in kinds])
        others = ~of_fault & np.array([name not in KINDS[kind].unclear for kind in kinds])
        negatives = (clean.severities, lake.severities, versions.severities[others])
        for level in LEVELS:
            found = versions.severities[of_fault & (levels == level), column]
            areas = [
                float(mannwhitneyu(found, negative[:, column]).statistic) / (len(found) * len(negative))
                for negative in negatives
            ]
            print(f"| {name} | {level} | {' | '.join(f'{area:.3f}' for area in areas)} |")
            if level >= GROSS:
                gross.append(areas[0])
    return gross


def _print_kinds(versions: Diagnosis, pictures: Sequence[Picture]) -> None:
    """Prints how each kind of fault raises its severity, and how many steps from level to level do not lower it."""
    print("\n| fault | severity | mean at levels 1 to 5 | steps that do not fall |\n|---|---|---|---|")
    for kind, (reason, _) in KINDS.items():
        rows = [row for row, picture in enumerate(pictures) if picture.faults[0][0] == kind]
        if reason is not None and rows:
            series = versions.severities[rows, SEVERITIES.index(reason)].reshape(-1, len(LEVELS))
            means = " ".join(f"{mean:.2f}" for mean in series.mean(axis=0))
            print(f"| {kind} | {reason} | {means} | {_percent((np.diff(series, axis=1) >= 0).mean())} |")


def _print_confusion(versions: Diagnosis, faults: NDArray[np.str_], levels: NDArray[np.int64]) -> None:
    """Prints which reason is told of gross faults."""
    print(f"\n| fault, from level {GROSS} on | {' | '.join(SEVERITIES)} | none |\n{'|---' * (len(SEVERITIES) + 2)}|")
    reasons = np.array([reason or "" for reason in versions.reasons])
    for fault in (*SEVERITIES, ""):
        told = reasons[(faults == fault) & (levels >= GROSS)]
        shares = [_percent((told == reason).mean()) for reason in (*SEVERITIES, "")]
        print(f"| {fault or 'another'} | {' | '.join(shares)} |")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def build(
    photos: Path,
    *,
    output: str | None = None,
    model: str = "grepr-lite",
    cache: Path | None = None,
    scenes: int = 400,
) -> None:
    """Learns the probes, prints the tables, and saves a bundle that has them.

    Args:
        photos: Folder with pristine/, unrated/, more/, rated/ and rated.csv, whose rows with split 'val' are tried on.
        output: Folder of the bundle; none is saved without it.
        model: Bundle that they are for, by name or folder.
        cache: File that keeps features from one time to another.
        scenes: Photographs of unrated/ and more/ that are given faults.
    """
    torch.set_num_threads(1)
    bundle, pictures = load_bundle(model), gather(photos, scenes)
    everything = [picture for part in pictures for picture in part]
    features = features_of(everything, photos, bundle, cache)
    learned, *tried = np.split(features, np.cumsum([len(part) for part in pictures])[:-1])
    probes = learn(pictures.learned, learned)
    found = try_out(probes, pictures, tried)
    if output is not None:
        card = {**bundle.card, "reasons_evaluation": found}
        saved = save_bundle(replace(bundle, reasons=probes, card=card), output)
        log.info("%s: model id %s", output, saved.model_id)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    command_line.run(build)
