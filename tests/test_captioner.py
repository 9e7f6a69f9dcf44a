"""The caption decoder: teacher forcing against single steps, beam search against a plain one, what is computed once."""

import math

import pytest
import torch

from s3e.captions.tree import BOS, EOS, PAD, UNK
from s3e.models.captioner import Beams, CaptionDecoder

WORDS, CONTEXT, ITEMS, WIDTH = 14, 5, 7, 6


def make_decoder(item_width=WIDTH, seed=0, end=0.0):
    """A decoder without dropout whose words differ clearly; `end` is added to EOS at every word."""
    torch.manual_seed(seed)
    decoder = CaptionDecoder(
        words=WORDS, context_width=CONTEXT, item_width=item_width, items=ITEMS, word_width=8, lstm_width=9,
        attention_width=4, dropout=0.5,
    ).eval()  # fmt: skip
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.startswith(("embedding", "lstm", "output", "score")):
                parameter.mul_(4)
        decoder.output.bias[EOS] += end
    return decoder


def photos(count, item_width=WIDTH, seed=1):
    torch.manual_seed(seed)
    return torch.randn(count, CONTEXT), torch.randn(
        count, ITEMS, item_width
    ) if item_width else None


def captions(*lengths):
    """Random captions with so many words between BOS and EOS."""
    words = torch.full((len(lengths), max(lengths) + 4), PAD)
    for row, length in zip(words, lengths, strict=True):
        row[: length + 2] = torch.tensor([BOS, *torch.randint(4, WORDS, (length,)).tolist(), EOS])
    return words


def word_by_word(decoder, words, context, items, length):
    """Teacher forcing with `step`."""
    state, keys = decoder.begin(context, items)
    logits = []
    for t in range(length - 1):
        step, state, _ = decoder.step(words[:, t], state, items, keys)
        logits.append(step)
    return torch.stack(logits, 1)


def plain_beam(decoder, context, items, max_words, size):
    """Words of one photo (B = 1): all continuations of all beams are sorted, and none is given up early."""
    state, keys = decoder.begin(context, items)
    beams = [(0.0, [], state)]
    for _ in range(max_words):
        grown = []
        for score, words, state in beams:
            if words and words[-1] == EOS:
                grown.append((score, words, state))
                continue
            logits, state, _ = decoder.step(
                torch.tensor([words[-1] if words else BOS]), state, items, keys
            )
            logits[:, [PAD, BOS, UNK]] = -math.inf
            log_p = logits.log_softmax(-1)[0].tolist()
            grown += [
                (score + log_p[i], [*words, i], state)
                for i in range(WORDS)
                if i not in (PAD, BOS, UNK)
            ]
        beams = sorted(grown, key=lambda beam: beam[0] / len(beam[1]), reverse=True)[:size]
    return beams[0][1] + [PAD] * (max_words - len(beams[0][1]))


@pytest.fixture
def decoder():
    return make_decoder()


@pytest.mark.parametrize("item_width", [WIDTH, 0])
def test_teacher_forcing_equals_single_steps(item_width):
    decoder, (context, items) = make_decoder(item_width), photos(3, item_width)
    words = captions(5, 2, 8)
    logits, steps = decoder(words, context, items), word_by_word(decoder, words, context, items, 10)
    assert logits.shape == (3, 9, WORDS)  # cut to the longest caption: 8 words, BOS and EOS
    torch.testing.assert_close(logits, steps, rtol=0, atol=1e-6)
    gradients = [
        torch.autograd.grad(x.sin().sum(), list(decoder.parameters())) for x in (logits, steps)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_parts_of_a_batch_unroll_equally(decoder):
    context, items = photos(4)
    words = captions(5, 2, 3, 1)
    whole = decoder(words, context, items)
    parts = [
        decoder(words[i : i + 2], context[i : i + 2], items[i : i + 2], length=7) for i in (0, 2)
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_dropout_falls_on_every_word_by_itself(decoder):
    torch.nn.init.ones_(decoder.train().embedding.weight)
    read, spoken = [], []
    decoder.lstm.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0][0, :8].tolist()))
    decoder.output.register_forward_pre_hook(
        lambda _, inputs: spoken.extend((inputs[0][0] == 0).tolist())
    )
    decoder(captions(20), *photos(1))
    assert {value for word in read for value in word} == {0.0, 2.0}
    assert len({tuple(word) for word in read}) > 10 and len({tuple(word) for word in spoken}) > 10


def test_attention_is_additive(decoder):
    context, items = photos(2)
    state, keys = decoder.begin(context, items)
    attention = decoder.step(torch.tensor([BOS, BOS]), state, items, keys)[2]
    summed = decoder.item_key(items) + decoder.place_key + decoder.query(state[0])[:, None]
    torch.testing.assert_close(attention, decoder.score(summed.tanh()).squeeze(-1).softmax(-1))


@pytest.mark.parametrize("item_width", [WIDTH, 0])
def test_steps_without_gradients_say_the_same(item_width):
    decoder, (context, items) = make_decoder(item_width), photos(3, item_width)
    words = captions(6, 6, 6)
    learning = word_by_word(decoder, words, context, items, 8)
    with torch.no_grad():
        torch.testing.assert_close(word_by_word(decoder, words, context, items, 8), learning)
    assert learning.requires_grad


def each(items, count):
    """The items of single photos."""
    return [None] * count if items is None else items.split(1)


@pytest.mark.parametrize("end", [-2.0, 2.0, 4.0])
@pytest.mark.parametrize("size", [1, 2, 5, 20])
@pytest.mark.parametrize("item_width", [WIDTH, 0])
def test_beam_search_equals_the_plain_one(item_width, size, end):
    decoder, (context, items) = make_decoder(item_width, end=end), photos(6, item_width)
    for max_words in (1, 9):
        found = decoder.beam(context, items, max_words, size)
        pairs = zip(context.split(1), each(items, 6), strict=True)
        assert found.tolist() == [plain_beam(decoder, *photo, max_words, size) for photo in pairs]


def test_beam_search_in_double_precision(decoder):
    context, items = (x.double() for x in photos(6))
    found = decoder.double().beam(context, items, 9, 3)
    pairs = zip(context.split(1), items.split(1), strict=True)
    assert found.tolist() == [plain_beam(decoder, *photo, 9, 3) for photo in pairs]


def mean_log_probability(decoder, words, context, items):
    """Score of one caption (a list that ends with EOS or fills its row)."""
    length = words.index(EOS) + 1 if EOS in words else len(words)
    logits = decoder(
        torch.tensor([[BOS, *words[:length]]]), context, items, length=length + 1
    ).float()
    logits[..., [PAD, BOS, UNK]] = -math.inf
    return logits.log_softmax(-1)[0, range(length), words[:length]].mean().item()


@torch.no_grad()
def test_beam_search_under_autocast_finds_captions_as_good_as_the_plain_one(decoder):
    context, items = photos(6)
    with torch.autocast("cpu", torch.bfloat16):
        state, keys = decoder.begin(context, items)
        assert decoder.step(torch.full((6,), BOS), state, items, keys)[0].dtype == torch.bfloat16
        found = decoder.beam(context, items, 9, 3).tolist()
        for words, *photo in zip(found, context.split(1), items.split(1), strict=True):
            best = plain_beam(
                decoder, *photo, 9, 3
            )  # may differ where rounding makes two words equal
            scores = [mean_log_probability(decoder, said, *photo) for said in (words, best)]
            assert scores[0] == pytest.approx(scores[1], abs=0.03)


def test_beam_of_one_is_greedy():
    decoder = make_decoder(end=1.0)
    context, items = photos(6)
    greedy, attention = decoder.greedy(context, items, 9)
    assert torch.equal(greedy, decoder.beam(context, items, 9, 1))
    torch.testing.assert_close(attention.sum(-1), torch.ones(6, 9))
    torch.testing.assert_close(decoder.attend(greedy, context, items), attention)
    ended = (greedy == EOS).cumsum(1) - (greedy == EOS).long()
    assert (
        0 < ended.sum()
        and (greedy[ended > 0] == PAD).all()
        and (greedy[ended == 0] > EOS - 1).all()
    )


def count_steps(decoder, monkeypatch):
    """A list that grows by the number of rows at every step."""
    steps, step = [], decoder.step
    monkeypatch.setattr(
        decoder, "step", lambda word, *rest: (steps.append(len(word)), step(word, *rest))[1]
    )
    return steps


def logits(*beams):
    """Logits of beams that say some words with these probabilities; the other words share the rest."""
    table = torch.empty(len(beams), WORDS)
    for row, given in zip(table, beams, strict=True):
        row[:] = (1 - sum(given.values())) / (WORDS - len(given))
        row[list(given)] = torch.tensor(list(given.values()))
    return table.log()


@pytest.mark.parametrize("chance, out_of_reach", [(0.3, False), (0.05, True)])
def test_an_open_beam_that_can_still_win_is_waited_for(chance, out_of_reach):
    beams = Beams(torch.zeros(1, 1), 2, 4)
    beams.extend(logits(*[{EOS: 0.6, 4: chance}] * 2), 0)
    assert (
        beams.settled() is out_of_reach
    )  # ln 0.3 < ln 0.6 < ln 0.3 / 4: as good as that after three sure words
    for t in range(1, 4):
        beams.extend(logits(*[{5: 0.9}] * 2), t)
    assert beams.best().tolist() == ([[EOS, PAD, PAD, PAD]] if out_of_reach else [[4, 5, 5, 5]])


def test_an_ended_caption_goes_on_once_and_unchanged():
    beams = Beams(torch.zeros(1, 1), 3, 2)
    beams.extend(logits(*[{EOS: 0.5, 4: 0.25, 5: 0.2}] * 3), 0)
    beams.extend(logits({6: 0.5, 7: 0.45}, {}, {}), 1)
    assert [words for words in beams.words[0].tolist() if words[0] == EOS] == [[EOS, PAD]]
    assert beams.scores.max().exp().item() == pytest.approx(0.5)


def test_scores_are_never_summed_in_half_precision():
    types = (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    )
    for given, kept in types:
        assert Beams(torch.zeros(1, 1, dtype=given), 2, 4).scores.dtype == kept


def test_search_stops_when_no_open_beam_can_win(monkeypatch):
    context, items = photos(4)
    decoder = make_decoder(end=30.0)  # the first beam ends at once, the others never catch up
    steps = count_steps(decoder, monkeypatch)
    assert decoder.beam(context, items, 9, 3)[:, :2].tolist() == [[EOS, PAD]] * 4
    assert steps == [12]
    steps.clear()
    decoder.output.bias.data[EOS] = -1e4
    decoder.beam(context, items, 9, 3)
    assert len(steps) == 9


def test_keys_are_made_once_a_photo_and_copied_for_no_beam(decoder, monkeypatch):
    made, shapes, advance = [], set(), decoder._advance
    decoder.item_key.register_forward_hook(lambda _, inputs, keys: made.append(len(keys)))
    monkeypatch.setattr(
        decoder,
        "_advance",
        lambda *x: (shapes.add((len(x[0]), x[2].shape, x[3].shape)), advance(*x))[1],
    )
    decoder.output.bias.data[EOS] = -1e4
    decoder.beam(*photos(4), 9, 3)
    assert made == [4] and shapes == {(12, (4, ITEMS, WIDTH), (4, ITEMS, 4))}
