"""The caption decoder: an LSTM that attends over nodes, cells or nothing (specification 6.4)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.captions.tree import BOS, EOS, PAD, UNK

State = tuple[Tensor, Tensor]  # hidden and cell state of the LSTM, R x H each


class CaptionDecoder(nn.Module):
    """LSTM with additive attention.

    `context` B x F starts the state; `items` B x K x I (tree nodes: K = 7; grid cells: K = h w) are
    attended at every word; with `item_width` 0 there is no attention and the image enters at the
    start only (the NIC baseline). Each of the `items` places has a learned key of its own, since a
    decoder cannot tell a leaf from a root by its content (reconstruction; the grid of the
    soft-attention baseline gets the same).
    """

    def __init__(
        self,
        *,
        words: int,
        context_width: int,
        item_width: int,
        items: int,
        word_width: int,
        lstm_width: int,
        attention_width: int,
        dropout: float,
    ):
        super().__init__()
        self.item_width = item_width
        self.embedding = nn.Embedding(words, word_width, padding_idx=PAD)
        # of the size of the attended items, so that neither drowns the other
        nn.init.normal_(self.embedding.weight, std=0.3)
        self.start = nn.Linear(context_width, 2 * lstm_width)
        self.lstm = nn.LSTMCell(word_width + item_width, lstm_width)
        self.output = nn.Linear(lstm_width + item_width, words)
        self.dropout = nn.Dropout(dropout)
        if item_width:
            self.item_key = nn.Linear(item_width, attention_width, bias=False)
            self.place_key = nn.Parameter(torch.randn(items, attention_width))
            self.query = nn.Linear(lstm_width, attention_width, bias=False)
            self.score = nn.Linear(attention_width, 1, bias=False)

    def begin(self, context: Tensor, items: Tensor | None) -> tuple[State, Tensor | None]:
        """The first LSTM state, and the items' attention keys B x K x A (once an image)."""
        hidden, cell = self.start(context).tanh().chunk(2, -1)
        keys = self.item_key(items) + self.place_key if self.item_width else None
        return (hidden, cell), keys

    def step(
        self, word: Tensor, state: State, items: Tensor | None, keys: Tensor | None
    ) -> tuple[State, Tensor, Tensor | None]:
        """One word: its embedding R x E -> next state, what the output layer reads ([hidden;
        attended items]), attention R x K (None without).

        R rows for B images: R / B beams of the first image, then those of the second; they share
        its items and keys.
        """
        if not self.item_width:
            state = self.lstm(word, state)
            return state, state[0], None
        query = self.query(state[0]).unflatten(0, (len(items), -1))  # B x R/B x A
        energy = torch.tanh(keys[:, None] + query[:, :, None])  # B x R/B x K x A
        attention = self.score(energy).squeeze(-1).softmax(-1)  # B x R/B x K
        glimpse = (attention @ items).flatten(0, 1)  # R x I
        state = self.lstm(torch.cat([word, glimpse], -1), state)
        return state, torch.cat([state[0], glimpse], -1), attention.flatten(0, 1)

    def _unroll(
        self, words: Tensor, context: Tensor, items: Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        """What the output layer reads, and attention, at each of `words` B x T."""
        state, keys = self.begin(context, items)
        for word in self.dropout(self.embedding(words)).unbind(1):
            state, *read = self.step(word, state, items, keys)
            yield read

    def forward(
        self, words: Tensor, context: Tensor, items: Tensor | None, *, length: int | None = None
    ) -> Tensor:
        """Teacher forcing: words B x T (BOS ... EOS, padded) -> logits B x (length - 1) x words.

        `length` counts BOS and EOS, at most T; without it, the longest caption of the batch sets
        it.
        """
        length = int((words != PAD).sum(1).max()) if length is None else length
        steps = self._unroll(words[:, : length - 1], context, items)
        return self.output(self.dropout(torch.stack([seen for seen, _ in steps], 1)))

    @torch.no_grad()
    def attend(self, words: Tensor, context: Tensor, items: Tensor) -> Tensor:
        """Where the decoder looks at each of `words` (B x T, as of `beam`): attention B x T x K."""
        steps = self._unroll(F.pad(words[:, :-1], (1, 0), value=BOS), context, items)
        return torch.stack([attention for _, attention in steps], 1)

    @torch.no_grad()
    def beam(self, context: Tensor, items: Tensor | None, max_words: int, size: int) -> Tensor:
        """Beam search by mean log-probability per word: ids B x max_words (EOS, then PAD)."""
        state, keys = self.begin(context, items)
        state = tuple(x.repeat_interleave(size, 0) for x in state)  # R x H, R = B size
        first = torch.arange(0, len(state[0]), size, device=context.device)[:, None]  # B x 1
        words = torch.full((len(state[0]), max_words), PAD, device=context.device)
        word = torch.full_like(words[:, 0], BOS)
        ended, lengths = torch.zeros_like(word, dtype=torch.bool), torch.zeros_like(word)
        scores = context.new_full((len(context), size), -torch.inf, dtype=torch.float32)
        scores[:, 0] = 0.0  # all beams of an image start alike: one goes on
        stay = scores.new_full((self.output.out_features,), -torch.inf)
        stay[PAD] = 0.0  # an ended beam goes on as it is, once
        for t in range(max_words):
            state, seen, _ = self.step(self.embedding(word), state, items, keys)
            logits = self.output(seen).float()
            logits[:, [PAD, BOS, UNK]] = -torch.inf  # never chosen
            gain = torch.where(ended[:, None], stay, logits.log_softmax(-1))
            total = scores.view(-1, 1) + gain  # R x words
            lengths = lengths + ~ended
            means = (total / lengths[:, None]).view(len(context), -1)  # B x (size words)
            best = means.topk(size).indices
            scores = total.view_as(means).gather(1, best)
            rows, word = (first + best // len(stay)).flatten(), (best % len(stay)).flatten()
            words, lengths, ended = words[rows], lengths[rows], ended[rows] | (word == EOS)
            state = tuple(x[rows] for x in state)
            words[:, t] = word
            if ended.all():
                break
        winner = (scores / lengths.view_as(scores)).argmax(1, keepdim=True)
        return words[(first + winner).flatten()]
