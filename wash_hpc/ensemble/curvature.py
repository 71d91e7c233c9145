"""The Hessian of a loss, known by its products with vectors alone. No images, no communication.

The products are exact (a gradient of a gradient, as in Pearlmutter 1994) up to the kinks of a network with ReLU, which
have no second derivative. The largest eigenvalues are scipy's, by ARPACK's Lanczos iteration over these products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wash_hpc.errors import MissingDependencyError
from wash_hpc.seeds import Stream, generator

Vector = NDArray[Any]

_TOLERANCE = 1e-4  # of an eigenvalue, relative
_MOST_RESTARTS = 100


def hessian_times(parameters: Sequence[Tensor], losses: Iterable[Tensor], vector: Tensor) -> Tensor:
    """The product of the Hessian of a sum of losses with a vector.

    Args:
        parameters: with respect to which it is taken.
        losses: scalars with their graphs, made one by one as they are asked for; perhaps none.
        vector: [P], in the parameters' order.

    Returns:
        [P] of the vector's dtype.
    """
    product = torch.zeros_like(vector)
    parts = [
        part.view(parameter.shape)
        for part, parameter in zip(
            torch.split(vector, [parameter.numel() for parameter in parameters]), parameters, strict=True
        )
    ]
    for loss in losses:
        gradients = torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True)
        along = torch.stack([(gradient * part).sum() for gradient, part in zip(gradients, parts, strict=True)]).sum()
        if along.requires_grad:  # else the loss is linear in all parameters
            seconds = torch.autograd.grad(along, parameters, materialize_grads=True)
            product += torch.cat([second.reshape(-1) for second in seconds])
    return product


def top_eigenvalues(multiply: Callable[[Vector], Vector], size: int, count: int, dtype: torch.dtype) -> list[float]:
    """The largest eigenvalues of a symmetric matrix that is known by its products.

    Args:
        multiply: gives the matrix's product with a vector [P]; called some tens of times.
        size: P, at least 2.
        count: how many, fewer where P is smaller.
        dtype: float32 or float64, of the vectors; the iteration keeps max(20, 2 count + 1) of them.

    Returns:
        In descending order; those that have converged, and none where a product is not finite.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    linalg = import_scipy_linalg()
    kind = np.float64 if dtype == torch.float64 else np.float32
    first = generator(0, Stream.LANDSCAPE, 1).standard_normal(size).astype(kind)
    if not np.isfinite(multiply(first)).all():
        return []
    operator = linalg.LinearOperator((size, size), matvec=multiply, dtype=kind)
    try:
        values = linalg.eigsh(
            operator,
            k=min(count, size - 1),
            which="LA",
            v0=first,
            tol=_TOLERANCE,
            maxiter=_MOST_RESTARTS,
            return_eigenvectors=False,
        )
    except linalg.ArpackNoConvergence as error:
        values = error.eigenvalues
    return sorted((float(value) for value in values), reverse=True)


def import_scipy_linalg() -> Any:
    """scipy's sparse linear algebra.

    Raises:
        MissingDependencyError: scipy is not installed.
    """
    try:
        from scipy.sparse import linalg
    except ModuleNotFoundError as error:
        raise MissingDependencyError("scipy", "pip install 'wash_hpc[landscape]'") from error
    return linalg
