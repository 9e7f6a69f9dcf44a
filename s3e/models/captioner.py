"""The caption decoder: an LSTM that attends over tree nodes, the feature grid or nothing (specification 6.4)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s3e.captions.tree import BOS, EOS, PAD, UNK

State = tuple[Tensor, Tensor]  # hidden and cell state of the LSTM, R x H each


class CaptionDecoder(nn.Module):
    """LSTM with additive attention.

    `context` B x F starts the state; `items` B x K x I (tree nodes: K = 7; grid cells: K = h w) are attended at every
    word; with `item_width` 0 there is no attention and the photo enters at the start only (the NIC baseline). Each of
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
        nn.init.normal_(
            self.embedding.weight, std=0.3
        )  # of the size of the attended items, so that both are heard
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
        """The first LSTM state and the items' attention keys, doubled (computed once a photo, not once a word)."""
        hidden, cell = self.start(context).tanh().chunk(2, -1)
        return (hidden, cell), 2 * (
            self.item_key(items) + self.place_key
        ) if self.item_width else None

    def step(
        self, word: Tensor, state: State, items: Tensor | None, keys: Tensor | None
    ) -> tuple[Tensor, State, Tensor | None]:
        """One word: logits R x words, next state, attention R x K (None without attention).

        R rows for B photos: R / B beams of the first photo, then those of the second; they share its items and keys.
        """
        state, seen, attention = self._advance(
            self.dropout(self.embedding(word)), state, items, keys
        )
        return _product(self.dropout(seen), self.output.weight, self.output.bias), state, attention

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

    def _advance(
        self, word: Tensor, state: State, items: Tensor | None, keys: Tensor | None
    ) -> tuple[State, Tensor, Tensor | None]:
        """Embedded words R x E -> next state, what the output layer reads ([hidden; attended items]), attention."""
        if not self.item_width:
            state = self._remember(word, state)
            return state, state[0], None
        query = 2 * self.query(state[0]).unflatten(
            0, (len(items), -1)
        )  # B x R/B x A: no copy of the keys per beam
        # softmax(v tanh(x)) = softmax(2 v sigmoid(2 x)), and on a CPU the sigmoid is up to ten times as fast
        attention = (
            (2 * self.score((keys[:, None] + query[:, :, None]).sigmoid_())).squeeze(-1).softmax(-1)
        )
        glimpse = (attention @ items).flatten(0, 1)
        state = self._remember(torch.cat([word, glimpse], -1), state)
        return state, torch.cat([state[0], glimpse], -1), attention.flatten(0, 1)

    def _remember(self, inputs: Tensor, state: State) -> State:
        """One step of the LSTM."""
        if not _by_onednn(inputs):
            return self.lstm(inputs, state)
        seen = _product(inputs, self.lstm.weight_ih, self.lstm.bias_ih)
        gates = seen + _product(state[0], self.lstm.weight_hh, self.lstm.bias_hh)
        enter, keep, new, leave = gates.chunk(4, -1)
        cell = keep.sigmoid() * state[1] + enter.sigmoid() * new.tanh()
        return leave.sigmoid() * cell.tanh(), cell

    @torch.no_grad()
    def greedy(
        self, context: Tensor, items: Tensor | None, max_words: int
    ) -> tuple[Tensor, Tensor | None]:
        """Most likely word at each step: ids B x max_words (EOS, then PAD) and attention B x max_words x K."""
        state, keys = self.begin(context, items)
        word = torch.full((len(context),), BOS, device=context.device)
        ended = torch.zeros_like(word, dtype=torch.bool)
        words, attention = [], []
        for _ in range(max_words):
            logits, state, weights = self.step(word, state, items, keys)
            word = _forbid(logits).argmax(-1).masked_fill(ended, PAD)
            ended |= word == EOS
            words.append(word)
            attention.append(weights)
        return torch.stack(words, 1), torch.stack(attention, 1) if self.item_width else None

    @torch.no_grad()
    def beam(self, context: Tensor, items: Tensor | None, max_words: int, size: int) -> Tensor:
        """Beam search for a batch, score = mean log-probability per word: ids B x max_words (EOS, then PAD)."""
        state, keys = self.begin(context, items)
        state = (state[0].repeat_interleave(size, 0), state[1].repeat_interleave(size, 0))
        word = torch.full((len(state[0]),), BOS, device=context.device)
        beams = Beams(context, size, max_words)
        for t in range(max_words):
            logits, state, _ = self.step(word, state, items, keys)
            rows, word = beams.extend(_forbid(logits), t)
            if beams.settled():
                break
            state = (state[0][rows], state[1][rows])
        return beams.best()

    @torch.no_grad()
    def attend(self, words: Tensor, context: Tensor, items: Tensor) -> Tensor:
        """Where the decoder looks as it says each of `words`, B x T as `beam` returns them: attention B x T x K."""
        state, keys = self.begin(context, items)
        seen = []
        for word in F.pad(words[:, :-1], (1, 0), value=BOS).unbind(1):
            state, _, attention = self._advance(self.embedding(word), state, items, keys)
            seen.append(attention)
        return torch.stack(seen, 1)


class Beams:
    """The best captions so far of B photos, `size` each, open and ended ones side by side.

    An ended one stays as long as it is among the best by mean log-probability per word.
    """

    def __init__(self, context: Tensor, size: int, max_words: int):
        shape, device = (len(context), size), context.device
        precision = torch.promote_types(context.dtype, torch.float32)
        self.scores = torch.full(
            shape, -torch.inf, dtype=precision, device=device
        )  # sums of log-probabilities
        self.scores[:, 0] = 0.0  # all beams of a photo start alike: one speaks
        self.lengths = torch.ones_like(self.scores)
        self.ended = torch.zeros(shape, dtype=torch.bool, device=device)
        self.words = torch.full((*shape, max_words), PAD, device=device)
        self.rows = torch.arange(self.ended.numel(), device=device).view(shape)

    def extend(self, logits: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Word `t` of every beam from logits (B size) x words: the rows that go on and their words, B size each.

        The best `size` words of each beam are enough: among `size` captions no beam has more.
        """
        size = self.ended.shape[1]
        log_p = logits.log_softmax(-1, dtype=self.scores.dtype).unflatten(0, (-1, size))
        gain, token = log_p.topk(min(size, log_p.shape[-1]))
        gain = gain.masked_fill(self.ended[..., None], -torch.inf)
        gain[..., 0].masked_fill_(self.ended, 0.0)  # an ended beam goes on as it is, once
        total = self.scores[..., None] + gain
        lengths = torch.where(self.ended, self.lengths, t + 1)
        best = (total / lengths[..., None]).flatten(1).topk(size).indices
        source = best // gain.shape[-1]
        ended = self.ended.gather(1, source)
        token = token.flatten(1).gather(1, best).masked_fill(ended, PAD)
        self.scores, self.lengths = total.flatten(1).gather(1, best), lengths.gather(1, source)
        self.ended = ended | (token == EOS)
        rows = self.rows.gather(1, source)
        self.words = self.words.flatten(0, 1)[rows]
        self.words[..., t] = token
        return rows.flatten(), token.flatten()

    def settled(self) -> bool:
        """For each photo, is its best ended caption out of reach of all open ones, even if more words cost nothing?"""
        ended = (self.scores / self.lengths).masked_fill(~self.ended, -torch.inf).amax(1)
        hoped = (self.scores / self.words.shape[-1]).masked_fill(self.ended, -torch.inf).amax(1)
        return bool((ended > hoped).all())

    def best(self) -> Tensor:
        """The words of each photo's best caption, B x max_words."""
        best = self.rows.gather(1, (self.scores / self.lengths).argmax(1, keepdim=True))
        return self.words.flatten(0, 1)[best.squeeze(1)]


def _forbid(logits: Tensor) -> Tensor:
    """Padding, the start sign and the unknown word are never said (written into `logits`)."""
    for word in (PAD, BOS, UNK):
        logits[:, word] = -torch.inf
    return logits


def _by_onednn(inputs: Tensor) -> bool:
    """May `_product` take oneDNN? For float32 on a CPU, without gradients."""
    plain = (
        inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
    )
    return plain and not torch.is_grad_enabled() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _product(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The linear layer R x I -> R x O. For the few rows of one word oneDNN takes half of MKL's time (AMD, measured).

    The operator is the one that torch's own compiler inserts.
    """
    if not _by_onednn(inputs):
        return F.linear(inputs, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")
