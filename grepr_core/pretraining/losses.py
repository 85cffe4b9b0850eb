"""The two contrastive losses of GRepQ (arXiv 2312.04838): between versions of a scene, and between groups of images."""

from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor


def similarity_weight(similarity: Tensor) -> Tensor:
    """Turns the similarity of two versions into how much of a positive pair they are.

    alpha(s) = 2 - 2 / (1 + s^2), the weight of a pair in the quality-aware contrastive loss.

    Args:
        similarity: Any shape, FSIMc with 1 for equal versions.

    Returns:
        Same shape and dtype; 0 for s = 0, 1 for s = 1, rising in between.
    """
    squared = similarity.square()
    return 2 * squared / (1 + squared)


def quality_aware_contrastive_loss(
    anchors: Tensor,
    augmented: Tensor,
    similarity: Tensor,
    *,
    temperature: float = 0.5,
    weighting: Literal["inside", "outside"] = "inside",
) -> Tensor:
    """Pulls versions of a scene together as far as they look alike: GRepQ's loss for the low-level encoder.

    With cosines c_ij of anchor i and augmented version j, E_ij = exp(c_ij / temperature), and weights alpha_ij::

        inside   mean_i -log(sum_j alpha_ij E_ij / sum_j E_ij) + mean_j -log(sum_i alpha_ij E_ij / sum_i E_ij)
        outside  mean_ij -alpha_ij log(E_ij / sum_j E_ij)      + mean_ij -alpha_ij log(E_ij / sum_i E_ij)

    The method is trained with the weights inside the logarithm. Versions are compared within their scene only.

    Args:
        anchors: (B, D, C) features of D versions of B scenes, any floating point dtype and length.
        augmented: (B, D, C) features of the augmented views of the same versions.
        similarity: (B, D, D) similarity of the versions, 1 on the diagonal.
        temperature: Divides the cosines.
        weighting: Where the weights stand.

    Returns:
        The loss, a scalar; at least float32, under autocast too.

    Raises:
        ValueError: The shapes do not fit each other.
    """
    scenes, versions = anchors.shape[:2]
    if augmented.shape != anchors.shape or similarity.shape != (scenes, versions, versions):
        raise ValueError(
            f"shapes do not fit: anchors {tuple(anchors.shape)}, augmented {tuple(augmented.shape)}, "
            f"similarity {tuple(similarity.shape)}"
        )
    logits = _cosines(anchors, augmented) / temperature
    weights = similarity_weight(similarity.to(logits.dtype))

    def towards(dim: int) -> Tensor:
        if weighting == "outside":
            return -(weights * logits.log_softmax(dim)).mean()
        return (logits.logsumexp(dim) - (logits + weights.log()).logsumexp(dim)).mean()

    return towards(-1) + towards(-2)


def group_contrastive_loss(low: Tensor, high: Tensor, *, temperature: float = 0.5) -> Tensor:
    """Separates images of low from images of high quality: GRepQ's loss for the high-level encoder.

    For an image x, p_x is its mean cosine with the others of its group, and y runs over the other group::

        loss_x = -log(exp(p_x / T) / (exp(p_x / T) + sum_y exp(c(x, y) / T)))

    Args:
        low: (N, C) features of one group, any floating point dtype and length.
        high: (M, C) features of the other; the loss is symmetric in the two.
        temperature: T.

    Returns:
        Mean of loss_x over both groups, a scalar; at least float32, under autocast too.

    Raises:
        ValueError: A group has fewer than two images, so that nothing is like them.
    """
    if min(len(low), len(high)) < 2:
        raise ValueError(f"groups of {len(low)} and {len(high)} images; each needs at least 2")

    def losses(own: Tensor, other: Tensor) -> Tensor:
        within = _cosines(own, own)
        like = (within.sum(dim=1) - within.diagonal()) / (len(own) - 1)
        logits = torch.cat([like[:, None], _cosines(own, other)], dim=1) / temperature
        return -logits.log_softmax(dim=1)[:, 0]

    return torch.cat([losses(low, high), losses(high, low)]).mean()


def select_groups(scores: Tensor, group_size: int) -> tuple[Tensor, Tensor]:
    """Picks the images of lowest and of highest pseudo-label; those in the middle are left out.

    Args:
        scores: (N,) pseudo-labels, higher is better. Only their order counts.
        group_size: Images a group.

    Returns:
        Indices of the lowest and of the highest, each (group_size,) int64 in rising order of score.

    Raises:
        ValueError: The group size is below 2, or two such groups would overlap.
    """
    if not 2 <= group_size <= len(scores) // 2:
        raise ValueError(
            f"two groups of {group_size} cannot be had from {len(scores)} images: "
            "a group needs at least 2 and at most half of them"
        )
    order = scores.argsort(stable=True)
    return order[:group_size], order[-group_size:]


def _cosines(a: Tensor, b: Tensor) -> Tensor:
    """Cosines (..., N, M) of features (..., N, C) and (..., M, C); zero vectors are at right angles to all."""
    a, b = (F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1, eps=1e-8) for x in (a, b))
    # Autocast would round the product to half precision, and with it the small differences a loss is made of.
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.mT
