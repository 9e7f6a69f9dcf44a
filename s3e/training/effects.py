"""Which parts of the networks the gradient of each loss term of a training reaches.

Networks are looked at in eval mode (no dropout, fixed statistics); weights, their `grad` and random
numbers stay as they are.
"""

import pandas as pd
import torch
from pandas import DataFrame

from s3e.data.corpus import Batch
from s3e.training.stages import CoTraining, PretrainSemantics


def gradients(training: CoTraining | PretrainSemantics, batch: Batch) -> DataFrame:
    """Norm of the gradient of each weighted term (rows) over the trained weights of each part.

    Parts are those of the semantics, the embedding and the rest of the generator; 0 where a term
    does not reach a part.
    """
    parts = dict(training.source.named_children()) if training.source else {}
    with training.evaluating(learn=True):
        if isinstance(training, PretrainSemantics):
            terms = training.terms(batch)
        else:
            terms = training.terms(*training.read_and_restore(batch))
            generator = training.model.generator
            parts |= {"embedding": generator.embed, "generator": generator}
    weights = {name: [*part.parameters()] for name, part in reversed(parts.items())}
    owner = {w: name for name, own in weights.items() for w in own if w.requires_grad}
    columns = [name for name in parts if weights[name]]
    table = DataFrame(0.0, index=pd.Index(terms, name="loss"), columns=columns)
    for term, value in terms.items():
        found = torch.autograd.grad(value, list(owner), retain_graph=True, allow_unused=True)
        for name, gradient in zip(owner.values(), found, strict=True):
            if gradient is not None:
                table.loc[term, name] += float(gradient.double().square().sum())
    return table**0.5
