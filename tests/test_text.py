"""Tokens and the caption vocabulary."""

from hypothesis import given
from hypothesis import strategies as st

from s3e.captions.tree import BOS, EOS, PAD, UNK, Vocabulary, tokenize

CAPTIONS = ["A dog runs .", "a dog sleeps !", "The dog 's red t-shirt"]


def test_tokenize():
    assert tokenize("A Dog's t-shirt, isn’t RED!") == ["a", "dog's", "t-shirt", "isn't", "red"]
    assert tokenize("") == [] and tokenize("🐕 ... !") == []


def test_vocabulary_is_ordered_by_count_then_alphabet():
    vocabulary = Vocabulary.build(CAPTIONS, 1)
    assert vocabulary.words[:6] == ["<pad>", "<bos>", "<eos>", "<unk>", "dog", "a"]
    assert len(vocabulary) == len(vocabulary.words) == 4 + 8
    assert vocabulary.words == Vocabulary.build(reversed(CAPTIONS), 1).words
    assert Vocabulary.build(CAPTIONS, 2).words[4:] == ["dog", "a"]


def test_encode_decode():
    vocabulary = Vocabulary.build(CAPTIONS, 1)
    ids = vocabulary.encode("A dog sleeps.", 9)
    assert ids[0] == BOS and ids[-1] == EOS and vocabulary.decode(ids) == "a dog sleeps"
    assert vocabulary.encode("zebra", 9) == [BOS, UNK, EOS]
    assert vocabulary.encode("", 9) == [BOS, EOS]
    assert len(vocabulary.encode("dog " * 40, 16)) == 18
    assert vocabulary.decode([BOS, vocabulary.ids["dog"], EOS, vocabulary.ids["a"], PAD]) == "dog"


@given(st.lists(st.text(max_size=40), max_size=5))
def test_round_trip_of_any_captions(captions):
    vocabulary = Vocabulary.build(captions, 1)
    for caption in captions:
        assert vocabulary.decode(vocabulary.encode(caption, 99)) == " ".join(tokenize(caption))
