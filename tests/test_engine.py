"""The engine answers like the model itself, in both prefix modes, and keeps what it should."""

import threading

import pytest
import torch
from PIL import Image

from tests.reference import our_model, reference_model, tiny_config
from tests.tiny import save_tokenizer
from vlmchat.engine import Engine, Piece, Reply
from vlmchat.errors import UserError
from vlmchat.images import Picture
from vlmchat.model.masks import block_mask
from vlmchat.processor import Processor
from vlmchat.sampling import Sampling

GREEDY = Sampling(max_tokens=12)
QUESTIONS = ["answer en what is this", "detect red circle", "caption en", "red circle"]


def picture(name: str = "a") -> Picture:
    """A plain 40 x 30 image whose colour and key follow from its name."""
    shade = sum(map(ord, name)) * 37 % 256
    return Picture(name=f"{name}.png", image=Image.new("RGB", (40, 30), (shade, 90, 200)), key=name)


def write_checkpoint(folder, spare_rows: int) -> None:
    """A tiny PaliGemma, and a tokenizer of Gemma's construction that fills its table but for some.

    With -1 spare rows there is none for the image token, as in tables of 257152 rows.
    """
    image_id = save_tokenizer(folder).token_to_id("<image>")
    config = tiny_config(rows=image_id + 1 + spare_rows, image_id=image_id)
    reference_model(config, seed=3).save_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("engine")
    write_checkpoint(folder, spare_rows=7)
    return folder


def make_engine(folder, *, image_attends_to_text: bool = True, cache_bytes: int = 2**20) -> Engine:
    model = our_model(folder, image_attends_to_text=image_attends_to_text)
    return Engine(model, Processor.from_folder(folder, model.config), cache_bytes)


@pytest.fixture
def engine(folder):
    return make_engine(folder)


def ask(engine, prompt, image="a", mode="kv", sampling=GREEDY, cancelled=lambda: False) -> Reply:
    shown = picture(image) if image else None
    *pieces, reply = engine.stream(prompt, shown, sampling, mode, cancelled)
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert isinstance(reply, Reply)
    assert "".join(piece.text for piece in pieces) == reply.text
    assert [piece.token_id for piece in pieces] == list(reply.token_ids)
    return reply


@torch.inference_mode()
def drawn_logits(engine, prompt, answer, blocks) -> torch.Tensor:
    """Logits (len(answer), V) that choose each answer token, from one forward without a cache."""
    model, processor = engine.model, engine.processor
    ids = [model.config.image_token_id] * model.config.image_tokens
    ids += processor.prompt_ids(prompt)
    features = model.encode_image(processor.pixels(picture().image))
    x = model.embed(torch.tensor([ids + list(answer)]), features)
    mask = block_mask(blocks, len(answer))
    hidden = model.text(x, torch.arange(x.shape[1]), mask)[0]
    logits = model.text.logits(hidden)[len(ids) - 1 : -1]
    logits[:, [model.config.bos_id, model.config.pad_id]] = -torch.inf
    logits[:, model.config.image_token_id :] = -torch.inf
    logits[:, processor.tokenizer.size :] = -torch.inf
    return logits


def blocks_of(engine, prompt, mode) -> list[int]:
    """The prefix blocks that the mode's mask draws for this prompt."""
    images = engine.config.image_tokens
    whole = images + len(engine.processor.prompt_ids(prompt))
    if mode == "exact":
        return [whole]
    kept = images + len(engine.processor.lead_ids(prompt))
    return [kept, whole - kept]


@pytest.mark.parametrize("mode", ["exact", "kv"])
@pytest.mark.parametrize("prompt", QUESTIONS)
def test_answers_are_the_argmax_of_one_forward_under_the_drawn_mask(engine, prompt, mode):
    reply = ask(engine, prompt, mode=mode)
    logits = drawn_logits(engine, prompt, reply.token_ids, blocks_of(engine, prompt, mode))
    assert logits.argmax(-1).tolist() == list(reply.token_ids)
    wanted = logits.log_softmax(-1).max(-1).values
    assert torch.allclose(torch.tensor(reply.logprobs), wanted, atol=1e-4)
    assert len(set(reply.token_ids)) > 1


def test_a_prompt_of_fixed_words_is_exact_in_kv(engine):
    for prompt in ("caption en", "ocr"):
        kv, exact = (engine.first_logits(prompt, picture(), mode) for mode in ("kv", "exact"))
        assert torch.allclose(kv, exact, atol=1e-5)


def test_a_prompt_with_variable_words_is_an_approximation_in_kv(engine):
    prompt = "answer en what is this"
    kv, exact = (engine.first_logits(prompt, picture(), mode) for mode in ("kv", "exact"))
    assert (kv - exact)[kv > -torch.inf].abs().max() > 1e-3


@pytest.mark.parametrize("prompt", QUESTIONS)
def test_kv_equals_exact_where_images_never_read_text(folder, prompt):
    engine = make_engine(folder, image_attends_to_text=False)
    kv, exact = (ask(engine, prompt, mode=mode) for mode in ("kv", "exact"))
    assert kv.token_ids == exact.token_ids
    first = [engine.first_logits(prompt, picture(), mode) for mode in ("kv", "exact")]
    assert torch.allclose(*first, atol=1e-5)


def test_the_prefix_is_reused_by_prompts_with_the_same_fixed_words(engine):
    lead = engine.config.image_tokens + len(engine.processor.lead_ids("answer en x"))
    first = ask(engine, "answer en what is this")
    assert (first.reused_tokens, first.timing.image_s > 0) == (0, True)
    second = ask(engine, "answer en red circle")
    assert (second.reused_tokens, second.timing.image_s) == (lead, 0.0)
    whole = engine.config.image_tokens + len(engine.processor.prompt_ids("answer en red circle"))
    assert second.reused_tokens + second.computed_tokens == whole
    assert ask(engine, "detect circle").reused_tokens == 0  # other fixed words, another block


def test_repeating_a_prompt_of_fixed_words_computes_nothing(engine):
    first, again = ask(engine, "caption en"), ask(engine, "caption en")
    assert again.computed_tokens == 0
    assert again.token_ids == first.token_ids


def test_exact_keeps_the_features_alone(engine):
    ask(engine, "answer en what is this", mode="exact")
    again = ask(engine, "answer en what is this", mode="exact")
    assert (again.reused_tokens, again.timing.image_s) == (0, 0.0)
    assert [kept.tokens for kept in engine.kept] == [0]


def test_looking_ahead_makes_the_first_question_cheap(engine):
    thread = threading.Thread(target=engine.look, args=(picture(), "answer en ?"))
    thread.start()
    thread.join()
    reply = ask(engine, "answer en what is this")
    assert reply.reused_tokens > engine.config.image_tokens
    assert reply.timing.image_s == 0.0


def test_a_first_question_and_its_image_are_read_in_one_pass(folder):
    engine, passes = make_engine(folder), []
    engine.model.text.register_forward_hook(lambda *_: passes.append(1))
    first = engine.first_logits("answer en what is this", picture("new"))
    assert len(passes) == 1
    block = engine.kept[-1]
    assert block.tokens == engine.config.image_tokens + len(
        engine.prefill.lead("answer en what is this")
    )
    again = engine.first_logits("answer en what is this", picture("new"))
    assert len(passes) == 2
    alone = make_engine(folder)
    alone.look(picture("new"), "answer en what is this")
    behind = alone.first_logits("answer en what is this", picture("new"))
    assert torch.allclose(first, again, atol=1e-5)
    assert torch.allclose(first, behind, atol=1e-5)


def test_answers_do_not_depend_on_what_is_kept(folder, engine):
    """A warm engine, with other images and prompts in between, answers as a fresh one does."""
    for image in "abcab":
        for prompt in QUESTIONS:
            fresh = ask(make_engine(folder), prompt, image)
            assert ask(engine, prompt, image).token_ids == fresh.token_ids


def test_prefixes_are_let_go_least_recently_used_first(folder):
    probe = make_engine(folder)
    ask(probe, "answer en x")
    each = sum(kept.nbytes for kept in probe.kept)
    engine = make_engine(folder, cache_bytes=2 * each)
    for image in ("a", "b", "a", "c"):
        ask(engine, "answer en x", image)
    assert {kept.image for kept in engine.kept} == {"a", "c"}
    assert ask(engine, "answer en y", "a").reused_tokens > 0
    assert ask(engine, "answer en y", "b").reused_tokens == 0
    assert sum(kept.nbytes for kept in engine.kept) <= 2 * each


def test_a_kept_prefix_answers_while_another_is_being_computed(folder, engine, monkeypatch):
    wanted = ask(engine, "answer en what is this", "a").token_ids
    begun, go_on = threading.Event(), threading.Event()
    encode = engine.model.encode_image

    def slow(pixels):
        begun.set()
        assert go_on.wait(60)
        return encode(pixels)

    monkeypatch.setattr(engine.model, "encode_image", slow)
    thread = threading.Thread(target=engine.look, args=(picture("b"), "answer en ?"))
    thread.start()
    assert begun.wait(60)
    back = ask(engine, "answer en what is this", "a")
    assert thread.is_alive()  # b is still looked at
    go_on.set()
    thread.join()
    assert (back.token_ids, back.timing.image_s) == (wanted, 0.0)
    fresh = ask(make_engine(folder), "answer en what is this", "b")
    after = ask(engine, "answer en what is this", "b")
    assert after.reused_tokens > 0
    assert after.token_ids == fresh.token_ids


def test_without_an_image_the_answer_comes_from_text_alone(engine):
    reply = ask(engine, "answer en what is this", image=None)
    assert (reply.reused_tokens, reply.timing.image_s) == (0, 0.0)
    assert reply.computed_tokens == len(engine.processor.prompt_ids("answer en what is this"))


def test_cancelling_ends_the_answer_and_the_next_one_is_unharmed(folder, engine):
    whole = ask(engine, "answer en what is this")
    reads = iter([False, False, False, True])
    cut = ask(engine, "answer en what is this", cancelled=lambda: next(reads))
    assert cut.finish_reason == "cancelled"
    assert cut.token_ids == whole.token_ids[:3]
    assert ask(engine, "answer en what is this").token_ids == whole.token_ids


@pytest.mark.parametrize("mode", ["exact", "kv"])
def test_an_interrupt_while_the_prefix_is_computed_leaves_nothing_half_done(
    folder, engine, mode, monkeypatch
):
    layer = engine.model.text.layers[1]
    with monkeypatch.context() as patch:

        def interrupted(*_):
            raise KeyboardInterrupt

        patch.setattr(layer, "forward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ask(engine, "answer en what is this", mode=mode)
    fresh = ask(make_engine(folder), "answer en what is this", mode=mode)
    assert ask(engine, "answer en what is this", mode=mode).token_ids == fresh.token_ids


def test_a_stream_left_early_leaves_the_engine_usable(folder, engine):
    next(iter(engine.stream("answer en x", picture(), GREEDY)))
    assert ask(engine, "caption en").token_ids == ask(make_engine(folder), "caption en").token_ids


def test_two_answers_cannot_be_read_in_turns(engine):
    one = engine.stream(QUESTIONS[0], picture(), GREEDY)
    next(one)
    assert ask(engine, QUESTIONS[1]).token_ids  # takes the other's place
    with pytest.raises(RuntimeError, match="another answer"):
        next(one)


def test_an_answer_ends_at_the_end_token_or_the_limit(engine, monkeypatch):
    assert ask(engine, "caption en").finish_reason == "length"
    tokens = ask(engine, "caption en").token_ids
    end = next(token for token in tokens if token != tokens[0])
    stopped_after = tokens.index(end) + 1
    object.__setattr__(engine.config, "eos_id", end)
    try:
        reply = ask(engine, "caption en")
    finally:
        object.__setattr__(engine.config, "eos_id", 1)
    assert reply.finish_reason == "stop"
    assert reply.token_ids == tokens[:stopped_after]


def test_the_same_seed_gives_the_same_answer(engine):
    def draw(seed: int) -> tuple[int, ...]:
        sampling = Sampling(temperature=1.5, max_tokens=20, seed=seed)
        return ask(engine, "caption en", sampling=sampling).token_ids

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_control_tokens_and_unused_rows_are_never_drawn(engine):
    logits = engine.first_logits("caption en", picture())
    config = engine.config
    assert config.text.vocab_size > engine.processor.tokenizer.size
    ruled_out = {config.image_token_id, config.bos_id, config.pad_id}
    ruled_out |= set(range(engine.processor.tokenizer.size, config.text.vocab_size))
    assert set((logits == -torch.inf).nonzero().flatten().tolist()) == ruled_out


@pytest.mark.parametrize("mode", ["exact", "kv"])
def test_a_table_without_a_row_for_the_image_token_answers_too(tmp_path, mode):
    write_checkpoint(tmp_path, spare_rows=-1)
    engine = make_engine(tmp_path)
    assert engine.config.text.vocab_size == engine.config.image_token_id
    reply = ask(engine, "answer en what is this", mode=mode)
    prompt, blocks = reply.prompt, blocks_of(engine, reply.prompt, mode)
    logits = drawn_logits(engine, prompt, reply.token_ids, blocks)
    assert logits.argmax(-1).tolist() == list(reply.token_ids)


def test_a_prompt_longer_than_the_model_reads_is_refused(folder):
    engine = make_engine(folder)
    object.__setattr__(engine.config.text, "max_positions", 20)
    with pytest.raises(UserError, match="ask something shorter"):
        ask(engine, "answer en " + "what " * 30)
    reply = ask(engine, "caption en", sampling=Sampling(max_tokens=500))
    used = reply.reused_tokens + reply.computed_tokens + len(reply.token_ids)
    assert (reply.finish_reason, used) == ("length", 20)
