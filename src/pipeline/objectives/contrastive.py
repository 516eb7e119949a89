"""The supervised contrastive loss (COIN, Eq. 1)."""

import torch


def supervised_contrastive(
    projections: torch.Tensor, labels: torch.Tensor, temperature: float
) -> torch.Tensor:
    r"""Pull images of a class together, push the others away (COIN, Eq. 1).

    .. math::
        -\frac{1}{n} \sum_i \frac{1}{|P_i|} \sum_{j \in P_i}
        \log \frac{\exp(v_i^T v_j / \tau)}{\sum_{k \ne i} \exp(v_i^T v_k / \tau)}

    The paper does not say what n is when an image is the only one of its class; here n counts the
    anchors that have a positive, so that singletons neither add to the loss nor dilute it.

    Args:
        projections: v, float (n, d), each row of length 1.
        labels: int64 (n,).
        temperature: tau.

    Returns:
        A scalar; zero, with zero gradient, where no image has a positive.
    """
    projections = projections.to(torch.promote_types(projections.dtype, torch.float32))
    # Under autocast the product would come in bfloat16, too coarse once divided by the temperature.
    with torch.autocast(projections.device.type, enabled=False):
        similarity = projections @ projections.T / temperature
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    log_p = similarity - torch.logsumexp(similarity.masked_fill(itself, float("-inf")), dim=1, keepdim=True)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    positives = positive.sum(1)
    anchors = positives > 0
    if not bool(anchors.any()):
        return projections.sum() * 0
    per_anchor = (log_p * positive).sum(1)[anchors] / positives[anchors]
    return -per_anchor.mean()
