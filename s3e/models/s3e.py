"""S3E-Deblur: a semantic source and a generator, put together from parts passed in (specification 6.0)."""

from dataclasses import replace

from torch import Tensor, nn

from s3e import ranks
from s3e.data.corpus import Batch
from s3e.models.generator import Generator
from s3e.models.semantics import VIEWS, Semantics


class S3EDeblur(nn.Module):
    """Restore a batch with the help of what it shows.

    `view` names what the semantic source reads (blurred, sharp, labels, noise). `shuffled` embeds the maps of another
    photo of the batch; `detach` keeps the deblurring loss out of the semantic source; `semantics=None` is the deblurrer
    alone.
    """

    def __init__(
        self, *, generator: Generator, semantics: nn.Module | None = None, view: str = "blurred",
        shuffled: bool = False, detach: bool = False,
    ):  # fmt: skip
        super().__init__()
        self.generator, self.semantics = generator, semantics
        self.view, self.shuffled, self.detach = view, shuffled, detach

    def read(self, batch: Batch) -> Semantics | None:
        """The semantics of a batch, as the source sees it (never shuffled: captions and trees stay their own)."""
        return None if self.semantics is None else self.semantics(VIEWS[self.view](batch))

    def restore(self, blurred: Tensor, semantics: Semantics | None) -> Tensor:
        """Blurred B x 3 x H x W in [-1, 1] -> restored, with the maps of `semantics` embedded."""
        maps = None if semantics is None else self._embedded(semantics).maps.to(blurred.dtype)
        return self.generator(blurred, maps)

    def forward(self, batch: Batch) -> tuple[Tensor, Semantics | None]:
        semantics = self.read(batch)
        return self.restore(batch.blurred, semantics), semantics

    def _embedded(self, semantics: Semantics) -> Semantics:
        maps = semantics.maps.detach() if self.detach else semantics.maps
        return replace(semantics, maps=ranks.roll(maps) if self.shuffled else maps)
