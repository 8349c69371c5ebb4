"""Captions are measured as the text tower will read them."""

import open_clip

from trainer.data_tools.captions import caption_facts


def test_empty_captions_and_images_without_any_are_counted():
    facts = caption_facts(
        [["a dog", " "], [], ["a dog"], [""]], tokenize=open_clip.SimpleTokenizer(), context_length=77
    )
    assert (facts.num_captions, facts.num_without, facts.num_empty, facts.num_repeated) == (4, 1, 2, 2)
    assert facts.most_repeated == {"a dog": 2}
    assert (facts.max_tokens, facts.num_too_long) == (4, 0)


def test_lengths_are_those_that_the_tokenizer_gives():
    tokenizer = open_clip.SimpleTokenizer()
    texts = [" ".join(["dog"] * number) for number in (1, 10, 74, 75, 76, 200)] + ["!", "a dog !"]
    facts = caption_facts([[text] for text in texts], tokenize=tokenizer, context_length=77)
    lengths = sorted(len(tokenizer.encode(text)) + 2 for text in texts)
    assert facts.max_tokens == lengths[-1] == 202
    assert facts.num_too_long == sum(length > 77 for length in lengths) == 2
    assert facts.median_tokens == lengths[3]


def test_no_captions_at_all():
    facts = caption_facts([[], []], tokenize=open_clip.SimpleTokenizer(), context_length=77)
    assert (facts.num_captions, facts.num_without, facts.max_tokens, facts.longest) == (0, 2, 0, "")
