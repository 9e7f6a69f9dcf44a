"""The caption decoder: an LSTM that attends over tree nodes, the feature grid or nothing (specification 6.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.captions.tree import BOS, EOS, PAD, UNK

State = tuple[Tensor, Tensor]  # hidden and cell state of the LSTM, R x H each


class CaptionDecoder(nn.Module):
    """LSTM with additive attention.

    `context` B x F starts the state; `items` B x K x I (tree nodes: K = 7; grid cells: K = h w) are attended at every
    word; with `item_width` 0 there is no attention and the image enters at the start only (the NIC baseline). Each of
    the `items` places has a learned key of its own, since a decoder cannot tell a leaf from a root by its content
    (reconstruction; the grid of the soft-attention baseline gets the same).
    """

    def __init__(
        self, *, words: int, context_width: int, item_width: int, items: int, word_width: int, lstm_width: int,
        attention_width: int, dropout: float,
    ):  # fmt: skip
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
        """The first LSTM state and the items' attention keys B x K x A, computed once an image, not once a word."""
        hidden, cell = self.start(context).tanh().chunk(2, -1)
        keys = self.item_key(items) + self.place_key if self.item_width else None
        return (hidden, cell), keys

    def step(
        self, word: Tensor, state: State, items: Tensor | None, keys: Tensor | None
    ) -> tuple[Tensor, State, Tensor | None]:
        """One word: logits R x words, next state, attention R x K (None without attention).

        R rows for B images: R / B beams of the first image, then those of the second; they share its items and keys.
        """
        word = self.dropout(self.embedding(word))
        state, seen, attention = self._advance(word, state, items, keys)
        return self.output(self.dropout(seen)), state, attention

    def _advance(
        self, word: Tensor, state: State, items: Tensor | None, keys: Tensor | None
    ) -> tuple[State, Tensor, Tensor | None]:
        """Embedded words R x E -> next state, what the output layer reads ([hidden; attended items]), attention."""
        if not self.item_width:
            state = self.lstm(word, state)
            return state, state[0], None
        query = self.query(state[0]).unflatten(0, (len(items), -1))  # B x R/B x A
        energy = torch.tanh(keys[:, None] + query[:, :, None])  # B x R/B x K x A
        attention = self.score(energy).squeeze(-1).softmax(-1)  # B x R/B x K
        glimpse = (attention @ items).flatten(0, 1)  # R x I
        state = self.lstm(torch.cat([word, glimpse], -1), state)
        return state, torch.cat([state[0], glimpse], -1), attention.flatten(0, 1)

    def forward(
        self, words: Tensor, context: Tensor, items: Tensor | None, *, length: int | None = None
    ) -> Tensor:
        """Teacher forcing: words B x T (BOS ... EOS, padded) -> logits B x (length - 1) x words.

        `length` counts BOS and EOS, at most T; without it, the longest caption of the batch sets it.
        """
        length = int((words != PAD).sum(1).max()) if length is None else length
        state, keys = self.begin(context, items)
        steps = []
        for word in self.dropout(self.embedding(words[:, : length - 1])).unbind(1):
            state, seen, _ = self._advance(word, state, items, keys)
            steps.append(seen)
        return self.output(self.dropout(torch.stack(steps, 1)))

    @torch.no_grad()
    def beam(self, context: Tensor, items: Tensor | None, max_words: int, size: int) -> Tensor:
        """Beam search (size 1: greedy), score = mean log-probability per word: ids B x max_words (EOS, then PAD)."""
        (hidden, cell), keys = self.begin(context, items)
        state = (hidden.repeat_interleave(size, 0), cell.repeat_interleave(size, 0))
        first = torch.arange(0, len(context) * size, size, device=context.device)[:, None]
        words = torch.full((len(state[0]), max_words), PAD, device=context.device)  # R x T
        word = torch.full_like(words[:, 0], BOS)
        precision = torch.promote_types(context.dtype, torch.float32)
        scores = torch.full((len(context), size), -torch.inf).to(context.device, precision)
        scores[:, 0] = 0.0  # all beams of an image start alike: one goes on
        lengths, ended = torch.ones_like(scores), torch.zeros_like(scores, dtype=torch.bool)
        for t in range(max_words):
            logits, state, _ = self.step(word, state, items, keys)
            logits[:, [PAD, BOS, UNK]] = -torch.inf  # never chosen
            gain = logits.log_softmax(-1, dtype=precision).unflatten(0, (-1, size))
            gain, token = gain.topk(min(size, gain.shape[-1]))  # a beam has at most `size` heirs
            gain = gain.masked_fill(ended[..., None], -torch.inf)
            gain[..., 0].masked_fill_(ended, 0.0)  # an ended beam goes on as it is, once
            total = scores[..., None] + gain  # B x size x size
            lengths = torch.where(ended, lengths, t + 1)
            best = (total / lengths[..., None]).flatten(1).topk(size).indices
            source = best // gain.shape[-1]
            scores, lengths = total.flatten(1).gather(1, best), lengths.gather(1, source)
            ended = ended.gather(1, source)
            word = token.flatten(1).gather(1, best).masked_fill(ended, PAD)
            ended |= word == EOS
            rows, word = (first + source).flatten(), word.flatten()
            words, state = words[rows], (state[0][rows], state[1][rows])
            words[:, t] = word
            # can an open beam still win, even if more words cost nothing?
            done = (scores / lengths).masked_fill(~ended, -torch.inf).amax(1)
            hope = (scores / max_words).masked_fill(ended, -torch.inf).amax(1)
            if (done > hope).all():
                break
        winner = (scores / lengths).argmax(1, keepdim=True)
        return words[(first + winner).squeeze(1)]

    @torch.no_grad()
    def attend(self, words: Tensor, context: Tensor, items: Tensor) -> Tensor:
        """Where the decoder looks as it says each of `words`, B x T as `beam` returns them: attention B x T x K."""
        state, keys = self.begin(context, items)
        attention = []
        for word in F.pad(words[:, :-1], (1, 0), value=BOS).unbind(1):
            _, state, weights = self.step(word, state, items, keys)
            attention.append(weights)
        return torch.stack(attention, 1)
