"""The caption decoder: teacher forcing against single steps, beam search against a plain one."""

import math

import pytest
import torch
import torch.nn.functional as F

from s3e.captions.tree import BOS, EOS, PAD, UNK
from s3e.models.captioner import CaptionDecoder

WORDS, CONTEXT, ITEMS, WIDTH = 14, 5, 7, 6
SIZES = {"words": WORDS, "context_width": CONTEXT, "items": ITEMS, "word_width": 8}
SIZES |= {"lstm_width": 9, "attention_width": 4, "dropout": 0.5}


def make_decoder(item_width=WIDTH, seed=0, end=0.0):
    """A decoder without dropout whose words differ clearly; `end` is added to EOS at every word."""
    torch.manual_seed(seed)
    decoder = CaptionDecoder(item_width=item_width, **SIZES).eval()
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.startswith(("embedding", "lstm", "output", "score")):
                parameter.mul_(4)
        decoder.output.bias[EOS] += end
    return decoder


def images(count, item_width=WIDTH, seed=1):
    torch.manual_seed(seed)
    context = torch.randn(count, CONTEXT)
    return context, torch.randn(count, ITEMS, item_width) if item_width else None


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
        state, seen, _ = decoder.step(decoder.embedding(words[:, t]), state, items, keys)
        logits.append(decoder.output(seen))
    return torch.stack(logits, 1)


def plain_beam(decoder, context, items, max_words, size):
    """Words of one image (B = 1): all continuations of all beams are sorted, none is given up."""
    state, keys = decoder.begin(context, items)
    beams = [(0.0, [], state)]
    for _ in range(max_words):
        grown = []
        for score, words, state in beams:
            if words and words[-1] == EOS:
                grown.append((score, words, state))
                continue
            word = decoder.embedding(torch.tensor([words[-1] if words else BOS]))
            state, seen, _ = decoder.step(word, state, items, keys)
            logits = decoder.output(seen)
            logits[:, [PAD, BOS, UNK]] = -math.inf
            log_p = logits.log_softmax(-1)[0].tolist()
            chosen = (i for i in range(WORDS) if i not in (PAD, BOS, UNK))
            grown += [(score + log_p[i], [*words, i], state) for i in chosen]
        beams = sorted(grown, key=lambda beam: beam[0] / len(beam[1]), reverse=True)[:size]
    return beams[0][1] + [PAD] * (max_words - len(beams[0][1]))


@pytest.mark.parametrize("item_width", [WIDTH, 0])
def test_teacher_forcing_equals_single_steps(item_width):
    decoder, (context, items) = make_decoder(item_width), images(3, item_width)
    words = captions(5, 2, 8)
    logits, steps = decoder(words, context, items), word_by_word(decoder, words, context, items, 10)
    assert logits.shape == (3, 9, WORDS)  # cut to the longest caption: 8 words, BOS and EOS
    torch.testing.assert_close(logits, steps, rtol=0, atol=1e-5)
    weights = list(decoder.parameters())
    gradients = [torch.autograd.grad(x.sin().sum(), weights) for x in (logits, steps)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_attention_is_additive():
    decoder, (context, items) = make_decoder(), images(2)
    state, keys = decoder.begin(context, items)
    attention = decoder.step(decoder.embedding(torch.tensor([BOS, BOS])), state, items, keys)[2]
    summed = decoder.item_key(items) + decoder.place_key + decoder.query(state[0])[:, None]
    torch.testing.assert_close(attention, decoder.score(summed.tanh()).squeeze(-1).softmax(-1))


@pytest.mark.parametrize("end", [-2.0, 2.0, 4.0])
@pytest.mark.parametrize("size", [1, 2, 5, 20])
@pytest.mark.parametrize("item_width", [WIDTH, 0])
def test_beam_search_equals_the_plain_one(item_width, size, end):
    decoder, (context, items) = make_decoder(item_width, end=end), images(6, item_width)
    for max_words in (1, 9):
        found = decoder.beam(context, items, max_words, size)
        single = [None] * 6 if items is None else items.split(1)
        pairs = zip(context.split(1), single, strict=True)
        assert found.tolist() == [plain_beam(decoder, *image, max_words, size) for image in pairs]


def test_beam_of_one_is_greedy_and_attention_is_a_distribution():
    decoder = make_decoder(end=1.0)
    context, items = images(6)
    words = decoder.beam(context, items, 9, 1)
    logits = decoder(F.pad(words, (1, 0), value=BOS), context, items, length=10)
    logits[..., [PAD, BOS, UNK]] = -math.inf
    ended = (words == EOS).cumsum(1) - (words == EOS).long() > 0
    assert ended.any() and (words[ended] == PAD).all()
    assert torch.equal(words[~ended], logits.argmax(-1)[~ended])
    torch.testing.assert_close(decoder.attend(words, context, items).sum(-1), torch.ones(6, 9))


def test_captions_do_not_depend_on_the_batch():
    decoder = make_decoder(end=1.0)
    context, items = images(5)
    together = decoder.beam(context, items, 9, 3)
    one_by_one = [decoder.beam(context[i : i + 1], items[i : i + 1], 9, 3) for i in range(5)]
    assert torch.equal(together, torch.cat(one_by_one))
    words = captions(4, 4, 4, 4, 4)
    parts = [decoder(words[i : i + 1], context[i : i + 1], items[i : i + 1]) for i in range(5)]
    torch.testing.assert_close(decoder(words, context, items), torch.cat(parts), rtol=0, atol=1e-5)


def count(module):
    """A list that grows by the number of rows at every call of `module`."""
    rows = []
    module.register_forward_hook(lambda _, __, output: rows.append(len(output)))
    return rows


@pytest.mark.parametrize("end, words", [(30.0, 2), (-1e4, 9)])
def test_keys_are_made_once_an_image_and_search_stops_when_all_beams_have_ended(end, words):
    decoder = make_decoder(end=end)
    keys, logits = count(decoder.item_key), count(decoder.output)
    decoder.beam(*images(4), 9, 3)
    assert keys == [4] and logits == [12] * words
