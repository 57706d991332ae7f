"""Side files of a torch model, for the merge methods that want more than weights.

    >>> from ingot import collect
    >>> collect.fisher(model, batches, "french_fisher.safetensors")  # doctest: +SKIP
    >>> collect.activation_norms(base, batches, "norms.safetensors")  # doctest: +SKIP

Each function runs the model over batches and writes one safetensors file (or several) for `side` or `aim` of a recipe. Sums are
kept in the file itself, which is mapped into memory: beside the model, its activations and the gradient of one parameter at a time
nothing is held. A batch is what the model takes: a mapping (of keyword arguments), a sequence whose last part is the labels, or one
tensor. The model is used where it is, in evaluation mode, and left as it was found. torch is imported when a function is called.
"""

from ._activations import activation_norms, gram_matrices
from ._gradients import fisher, gradients, prior, second_moments

__all__ = ["activation_norms", "fisher", "gradients", "gram_matrices", "prior", "second_moments"]
