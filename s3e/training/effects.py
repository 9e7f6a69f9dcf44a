"""What each loss term of a training does: which parts of the networks its gradient reaches.

Networks are looked at in eval mode (no dropout, fixed statistics); weights, their `grad` and random
numbers stay as they are.
"""

import pandas as pd
import torch

from s3e.data.corpus import Batch
from s3e.training.stages import CoTraining, PretrainSemantics


def gradients(training: CoTraining | PretrainSemantics, batch: Batch) -> pd.DataFrame:
    """Norm of the gradient of each weighted term (rows) over the trained weights of each part.

    Parts are those of the semantics, the embedding and the rest of the generator; 0 where a term
    does not reach a part.
    """
    with training.evaluating(learn=True):
        if isinstance(training, PretrainSemantics):
            terms, parts = training.terms(batch), dict(training.source.named_children())
        else:
            terms, model = training.terms(*training.read_and_restore(batch)), training.model
            parts = {} if model.semantics is None else dict(model.semantics.named_children())
            parts |= {"embedding": model.generator.embed, "generator": model.generator}
    owner = {}
    for name, part in parts.items():
        for weight in part.parameters():
            if weight.requires_grad:
                owner.setdefault(weight, name)
    columns = [name for name, part in parts.items() if any(True for _ in part.parameters())]
    table = pd.DataFrame(0.0, index=pd.Index(terms, name="loss"), columns=columns)
    for term, value in terms.items():
        found = torch.autograd.grad(value, list(owner), retain_graph=True, allow_unused=True)
        for name, gradient in zip(owner.values(), found, strict=True):
            if gradient is not None:
                table.loc[term, name] += float(gradient.double().square().sum())
    return table**0.5
