"""The caption decoder: an LSTM that attends over tree nodes, the feature grid or nothing (specification 6.4)."""

import torch
from torch import Tensor, nn

from s3e.data.text import BOS, EOS, PAD, UNK


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
        nn.init.normal_(self.embedding.weight, std=0.3)  # of the size of the attended items, so that both are heard
        self.start = nn.Linear(context_width, 2 * lstm_width)
        self.lstm = nn.LSTMCell(word_width + item_width, lstm_width)
        self.output = nn.Linear(lstm_width + item_width, words)
        self.dropout = nn.Dropout(dropout)
        if item_width:
            self.item_key = nn.Linear(item_width, attention_width, bias=False)
            self.place_key = nn.Parameter(torch.randn(items, attention_width))
            self.query = nn.Linear(lstm_width, attention_width, bias=False)
            self.score = nn.Linear(attention_width, 1, bias=False)

    def begin(self, context: Tensor, items: Tensor | None) -> tuple[tuple[Tensor, Tensor], Tensor | None]:
        """The first LSTM state and the items' attention keys (computed once a photo, not once a word)."""
        hidden, cell = self.start(context).tanh().chunk(2, -1)
        return (hidden, cell), self.item_key(items) + self.place_key if self.item_width else None

    def step(
        self, word: Tensor, state: tuple[Tensor, Tensor], items: Tensor | None, keys: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor | None]:
        """One word: logits B x words, next state, attention B x K (None without attention)."""
        inputs, attention, glimpse = [self.dropout(self.embedding(word))], None, []
        if self.item_width:
            scores = self.score((keys + self.query(state[0])[:, None]).tanh()).squeeze(-1)
            attention = scores.softmax(-1)
            glimpse = [torch.einsum("bk,bki->bi", attention, items)]
        state = self.lstm(torch.cat(inputs + glimpse, -1), state)
        return self.output(self.dropout(torch.cat([state[0], *glimpse], -1))), state, attention

    def forward(self, words: Tensor, context: Tensor, items: Tensor | None) -> Tensor:
        """Teacher forcing: words B x T (BOS ... EOS, padded) -> logits B x (T - 1) x words."""
        state, keys = self.begin(context, items)
        used = int((words != PAD).sum(1).max())
        logits = []
        for t in range(used - 1):
            step, state, _ = self.step(words[:, t], state, items, keys)
            logits.append(step)
        return torch.stack(logits, 1)

    @torch.no_grad()
    def greedy(self, context: Tensor, items: Tensor | None, max_words: int) -> tuple[Tensor, Tensor | None]:
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
        batch, device = len(context), context.device
        state, keys = self.begin(context, items)
        repeat = torch.arange(batch, device=device).repeat_interleave(size)
        state = (state[0][repeat], state[1][repeat])
        items, keys = (None, None) if items is None or keys is None else (items[repeat], keys[repeat])
        word = torch.full((batch * size,), BOS, device=device)
        scores = torch.full((batch, size), -torch.inf, device=device)
        scores[:, 0] = 0.0
        lengths, ended = torch.ones_like(scores), torch.zeros_like(scores, dtype=torch.bool)
        words = torch.zeros(batch, size, max_words, dtype=torch.long, device=device)
        for t in range(max_words):
            logits, state, _ = self.step(word, state, items, keys)
            log_p = _forbid(logits).log_softmax(-1).view(batch, size, -1)
            only_pad = torch.full_like(log_p, -torch.inf)
            only_pad[..., PAD] = 0.0  # an ended beam goes on as it is
            log_p = torch.where(ended[..., None], only_pad, log_p)
            total = (scores[..., None] + log_p).flatten(1)
            longer = torch.where(ended, lengths, torch.full_like(lengths, t + 1.0))
            ranked = total / longer.repeat_interleave(log_p.shape[-1], 1)
            best = ranked.topk(size, 1).indices
            source, token = best // log_p.shape[-1], best % log_p.shape[-1]
            scores, lengths = total.gather(1, best), longer.gather(1, source)
            ended = ended.gather(1, source) | (token == EOS)
            words = words.gather(1, source[..., None].expand_as(words)).clone()
            words[..., t] = token
            rows = (torch.arange(batch, device=device)[:, None] * size + source).flatten()
            state, word = (state[0][rows], state[1][rows]), token.flatten()
            if ended.all():
                break
        best = (scores / lengths).argmax(1)
        return words[torch.arange(batch, device=device), best]


def _forbid(logits: Tensor) -> Tensor:
    """Padding, the start sign and the unknown word are never said."""
    return logits.index_fill(-1, torch.tensor([PAD, BOS, UNK], device=logits.device), -torch.inf)
