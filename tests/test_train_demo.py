"""The demo model's training: scenes, questions, tokens, batches, and a few steps of the toy."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

import vlmchat
from examples.train_demo import batches, evaluate, export, samples
from examples.train_demo.answers import (
    UNANSWERABLE,
    beside,
    boxes,
    called,
    largest,
    listing,
    place,
)
from examples.train_demo.batches import (
    NO_TARGET,
    SceneBatches,
    as_bytes,
    lay_out,
    normalised,
    reading_mask,
)
from examples.train_demo.card import card
from examples.train_demo.learner import TRAINING_FILE, Learner, Progress, prepare
from examples.train_demo.lettering import LETTERS, draw_words, is_readable
from examples.train_demo.nonsense import draw_nonsense
from examples.train_demo.other_renderer import draw_other
from examples.train_demo.outlines import SHAPES
from examples.train_demo.patches import NOTHING, Truth, patch_targets
from examples.train_demo.pool import Pool
from examples.train_demo.questions import KINDS, Asker, Question
from examples.train_demo.samples import FIRST_SAMPLE_SEED, write_samples
from examples.train_demo.scene import COLOURS, Contents, Text, Thing, draw_scene
from examples.train_demo.sizes import DEMO, TOY
from examples.train_demo.train import Plan, answer_scores, step, train
from vlmchat.config import ModelConfig
from vlmchat.engine import Engine
from vlmchat.images import Picture
from vlmchat.model.cache import KVCache
from vlmchat.model.paligemma import PaliGemma
from vlmchat.processor import Processor
from vlmchat.tasks import Detection, parse_detections
from vlmchat.weights import open_checkpoint

pytestmark = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9")

STAR = Thing("star", "red", (0.05, 0.1, 0.35, 0.3))
RING = Thing("ring", "blue", (0.4, 0.4, 0.6, 0.6))
HEART = Thing("heart", "blue", (0.7, 0.7, 0.8, 0.9))
THREE = (RING, STAR, HEART)  # not in the order from left to right
WORD = Text("EXIT", "green")
CONTENTS = Contents(THREE, WORD)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("toy")
    prepare(run, TOY)
    return run


@pytest.fixture(scope="module")
def processor(folder: Path) -> Processor:
    return Processor.from_folder(folder, ModelConfig.from_folder(folder))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return tokenizer


# Scenes


@pytest.mark.parametrize("seed", range(40))
def test_every_thing_lies_in_its_box_and_every_box_in_the_picture(seed: int) -> None:
    scene = draw_scene(random.Random(seed))
    assert scene.owners.shape == (64, 64)
    assert scene.forms.shape == (len(scene.things), 8, 8)
    for number, (thing, form) in enumerate(zip(scene.things, scene.forms, strict=True), start=1):
        x0, y0, x1, y1 = thing.box
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1
        rows, columns = np.nonzero(scene.owners == number)
        assert rows.size > 0
        assert y0 - 1 / 64 <= rows.min() / 64 <= (rows.max() + 1) / 64 <= y1 + 1 / 64
        assert x0 - 1 / 64 <= columns.min() / 64 <= (columns.max() + 1) / 64 <= x1 + 1 / 64
        assert form.max() > 128


def test_the_same_seed_draws_the_same_scene() -> None:
    one, other = (draw_scene(random.Random(7)) for _ in range(2))
    assert one.image.tobytes() == other.image.tobytes()
    assert one.things == other.things


def test_a_scene_has_as_many_things_as_asked_for() -> None:
    assert {len(draw_scene(random.Random(seed), count=1).things) for seed in range(30)} == {1}
    assert {len(draw_scene(random.Random(seed)).things) for seed in range(200)} == set(range(7))


@pytest.mark.parametrize("seed", range(10))
def test_a_thing_is_painted_in_its_colour(seed: int) -> None:
    scene = draw_scene(random.Random(seed), count=1, side=200, text=False)
    pixels = np.asarray(scene.image.resize((64, 64)), dtype=float)[scene.owners == 1]
    seen = np.median(pixels, axis=0)
    nearest = min(COLOURS, key=lambda name: np.abs(seen - COLOURS[name]).sum(1).min())
    assert nearest == scene.things[0].colour


def test_letters_lie_side_by_side() -> None:
    texts = 0
    for seed in range(30):
        scene = draw_scene(random.Random(seed), count=1, side=200, text=True)
        if scene.contents.text is None:
            assert not scene.letters.any()
            continue
        texts += 1
        content = scene.contents.text.content
        assert {LETTERS[i - 1] for i in np.unique(scene.letters) if i} <= set(content)
        first, last = (scene.letters == LETTERS.index(c) + 1 for c in (content[0], content[-1]))
        assert first.any()
        assert np.nonzero(first)[1].min() <= np.nonzero(last)[1].min()
    assert texts > 20


def test_what_is_printed_can_be_read() -> None:
    rng = random.Random(0)
    printed = [draw_words(rng) for _ in range(500)]
    assert all(1 <= len(text) <= 8 and set(text) <= set(LETTERS) for text in printed)
    assert {len(text) for text in printed} == set(range(1, 9))
    assert any(text.isdigit() for text in printed)
    unreadable = ("sos", "SOS", "O", "l", "0", "101", "Ill", "a")
    assert [text for text in unreadable if is_readable(text)] == []
    assert all(is_readable(text) for text in ("A", "7", "exit", "SALE", "Bank", "B52", "2026"))


@pytest.mark.parametrize("side", [64, 700])
def test_pictures_have_the_size_asked_for(side: int) -> None:
    for seed in range(5):
        width, height = draw_scene(random.Random(seed), side=side).image.size
        assert width * height == pytest.approx(side**2, rel=0.05)
        assert max(width, height) <= 2.1 * min(width, height)


def test_another_renderer_draws_what_it_says() -> None:
    pytest.importorskip("matplotlib")
    for seed in range(8):
        image, contents = draw_other(random.Random(seed))
        assert contents.things
        for thing in contents.things:
            assert thing.shape in SHAPES
            x0, y0, x1, y1 = thing.box
            assert 0 <= x0 < x1 <= 1
            assert 0 <= y0 < y1 <= 1
            part = np.asarray(image, dtype=float)[
                round(y0 * image.height) : round(y1 * image.height),
                round(x0 * image.width) : round(x1 * image.width),
            ]
            far = np.abs(part[:, :, None] - COLOURS[thing.colour]).sum(3).min(2)
            assert (far < 200).mean() > 0.1, (seed, thing)


# Questions


@pytest.mark.parametrize(
    ("centre", "expected"),
    [
        ((0.1, 0.1), "top left"),
        ((0.5, 0.1), "top"),
        ((0.9, 0.1), "top right"),
        ((0.1, 0.5), "left"),
        ((0.5, 0.5), "middle"),
        ((0.9, 0.5), "right"),
        ((0.1, 0.9), "bottom left"),
        ((0.5, 0.9), "bottom"),
        ((0.9, 0.9), "bottom right"),
    ],
)
def test_places_are_ninths(centre: tuple[float, float], expected: str) -> None:
    x, y = centre
    assert place(Thing("star", "red", (x - 0.1, y - 0.1, x + 0.1, y + 0.1))) == expected


@pytest.mark.parametrize(
    ("named", "count"),
    [
        ("star", 1),
        ("red star", 1),
        ("red object", 1),
        ("blue thing", 2),
        ("shape", 3),
        ("blue star", 0),
        ("red ring", 0),
        ("green object", 0),
        ("dog", 0),
    ],
)
def test_what_a_name_means(named: str, count: int) -> None:
    assert len(called(named, THREE)) == count


ANSWERS = {
    "what colour is the star": "red",
    "what color is the ring": "blue",
    "what shape is the red object": "star",
    "what colour is the triangle": "unanswerable",
    "what shape is the green object": "unanswerable",
    "how many objects are there": "3",
    "how many blue shapes do you see": "2",
    "how many rings": "1",
    "how many crosses are there": "0",
    "where is the star": "top left",
    "where is the ring": "middle",
    "where is the blue heart": "bottom right",
    "where is the square": "unanswerable",
    "is there a red star": "yes",
    "is there a blue object": "yes",
    "is there a circle": "no",
    "are there any red rings": "no",
    "are there crosses": "no",
    "is there an orange object": "no",
    "what is left of the ring": "red star",
    "what is to the right of the ring": "blue heart",
    "what is above the star": "nothing",
    "what is below the red object": "blue ring",
    "what is right of the square": "unanswerable",
    "what is the largest object": "red star",
    "which shape is smallest": "blue heart",
    "what do you see": "red star, blue ring, blue heart",
    "what does it say": "EXIT",
    "what colour is the text": "green",
    "caption en": "red star, blue ring, blue heart",
    "ocr": "EXIT",
    "detect ring": "<loc0409><loc0409><loc0614><loc0614> ring",
    "detect blue heart": "<loc0716><loc0716><loc0921><loc0818> blue heart",
    "detect heart ; star": "<loc0716><loc0716><loc0921><loc0818> heart ; "
    "<loc0102><loc0051><loc0307><loc0358> star",
    "detect object": "<loc0102><loc0051><loc0307><loc0358> object ; "
    "<loc0409><loc0409><loc0614><loc0614> object ; <loc0716><loc0716><loc0921><loc0818> object",
    "detect square": "unanswerable",
}


def test_questions_about_a_scene_made_by_hand_have_these_answers() -> None:
    rng = random.Random(0)
    asked: dict[str, set[str]] = {}
    for _ in range(60_000):
        question = Asker(rng, CONTENTS).any()
        plain = question.prompt.removeprefix("answer en ").rstrip(" ?.")
        asked.setdefault(plain[0].lower() + plain[1:], set()).add(question.answer)
    assert {plain: asked.get(plain) for plain in ANSWERS} == {
        plain: {answer} for plain, answer in ANSWERS.items()
    }


def test_nothing_is_asked_of_what_is_not_alone() -> None:
    rng = random.Random(0)
    twins = Contents((STAR, replace(STAR, box=(0.6, 0.6, 0.9, 0.8))))
    kinds = {Asker(rng, twins).any().kind for _ in range(2000)}
    assert not kinds & {"shape", "colour", "size", "where", "side", "says", "ocr", "ink"}


def test_no_wording_is_both_heard_and_unheard() -> None:
    heard, unheard = (
        {
            plain.removeprefix("answer en ").lower().rstrip(" ?.")
            for seed in range(4000)
            for plain in [Asker(random.Random(seed), CONTENTS, kept_out).any().prompt]
            if plain.startswith("answer en")
        }
        for kept_out in (False, True)
    )
    assert min(len(heard), len(unheard)) > 400
    assert not heard & unheard
    nonsense = [{draw_nonsense(random.Random(s), kept) for s in range(2000)} for kept in (0, 1)]
    assert not nonsense[0] & nonsense[1]


def test_where_a_person_would_hesitate_nothing_is_asked() -> None:
    on_the_line = Thing("star", "red", (0.3, 0.4, 0.36, 0.6))
    assert place(on_the_line) is None
    same_size = Thing("ring", "blue", (0.7, 0.7, 0.9, 0.9))
    assert largest([same_size, replace(same_size, box=(0.1, 0.1, 0.29, 0.32))]) is None
    assert beside(RING, "left", (RING, replace(STAR, box=(0.39, 0.0, 0.59, 0.2)))) is None
    assert beside(RING, "above", (RING, replace(STAR, box=(0.39, 0.0, 0.59, 0.2)))) == "red star"


def test_lists_and_boxes_go_from_left_to_right() -> None:
    assert listing(THREE) == "red star, blue ring, blue heart"
    found = parse_detections(boxes(THREE, ["object"]))
    assert [d.pixel_box((100, 100))[0] for d in found] == pytest.approx([5, 40, 70], abs=0.1)


# The tokenizer


def test_tokens_lie_as_gemmas_do(tokenizer: Tokenizer, folder: Path) -> None:
    ids = [tokenizer.token_to_id(t) for t in ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")]
    assert ids == [0, 1, 2, 3, 4]
    first_byte, last_byte = (tokenizer.token_to_id(t) for t in ("<0x00>", "<0xFF>"))
    assert last_byte - first_byte == 255
    image = tokenizer.token_to_id("<image>")
    assert image == tokenizer.get_vocab_size() - 1
    assert tokenizer.token_to_id("<loc0000>") == image - 128 - 1024
    assert tokenizer.token_to_id("<seg000>") == image - 128
    assert ModelConfig.from_folder(folder).image_token_id == image


@pytest.mark.parametrize(
    ("text", "count"),
    [("\n", 1), ("\n\n\n", 1), ("<loc0017>", 1), ("<seg127>", 1), ("é", 2)],
)
def test_how_many_tokens_a_text_is(tokenizer: Tokenizer, text: str, count: int) -> None:
    assert len(tokenizer.encode(text, add_special_tokens=False).ids) == count


@pytest.mark.parametrize(
    "text", ["answer en What colour is it?", "  two  spaces ", "Zürich 生 🤗", "<bos> a <image>"]
)
def test_texts_come_back(processor: Processor, text: str) -> None:
    assert processor.tokenizer.decode(processor.tokenizer.encode(text)) == text


def test_our_words_are_one_token_each(tokenizer: Tokenizer) -> None:
    for word in (*COLOURS, *SHAPES, "colour", "shape", "many"):
        assert len(tokenizer.encode(f" {word}", add_special_tokens=False).ids) == 1, word


# Batches


def test_the_mask_is_the_one_that_is_drawn() -> None:
    drawn = """
        1 1 0 0 0 0 0 0 0
        1 1 0 0 0 0 0 0 0
        1 1 1 1 0 0 0 0 0
        1 1 1 1 0 0 0 0 0
        1 1 1 1 1 0 0 0 0
        1 1 1 1 1 1 0 0 0
        1 1 0 0 0 0 1 1 0
        1 1 0 0 0 0 1 1 0
        1 1 0 0 0 0 1 1 1
    """
    rows = [line.split() for line in drawn.strip().splitlines()]
    expected = torch.tensor([[cell == "1" for cell in row] for row in rows])
    question, rank = torch.tensor([[0, 0, 0, 0, 1, 1, 1]]), torch.tensor([[0, 0, 1, 2, 0, 0, 1]])
    assert torch.equal(reading_mask(question, rank, image_tokens=2)[0, 0], expected)


def test_a_text_says_what_comes_next(processor: Processor) -> None:
    text = lay_out([Question("x", "caption en", "red star")] * 2, processor)
    prompt = processor.prompt_ids("caption en")
    answer = [*processor.tokenizer.encode("red star"), 1]
    length = len(prompt) + len(answer) - 1
    assert text.ids == (prompt + answer[:-1]) * 2
    assert text.targets == ([NO_TARGET] * (len(prompt) - 1) + answer) * 2
    assert text.positions == list(range(16, 16 + length)) * 2  # the toy's image is 16 tokens


def test_questions_that_share_an_image_are_answered_as_each_alone(
    folder: Path, processor: Processor
) -> None:
    learner = Learner(processor.config)
    model = learner.model.eval()
    scene = draw_scene(random.Random(3))
    asked = [Question("x", "caption en", "red star"), Question("x", "answer en where?", "top")]
    padded = [Question("x", "detect object and a good deal more", "nothing at all")] * 3
    pixels = processor.pixels(scene.image).repeat(2, 1, 1, 1)
    texts = batches.stack([lay_out(asked, processor), lay_out(padded, processor)]).to("cpu")
    with torch.no_grad():
        scores = answer_scores(model, model.vision(pixels), texts)
    engine = Engine(model, processor)
    picture = Picture("scene", scene.image, "key")
    row = 0
    for question in asked:
        first = engine.first_logits(question.prompt, picture)
        possible = first > -torch.inf
        torch.testing.assert_close(scores[row][possible], first[possible], atol=1e-4, rtol=1e-4)
        alone = one_by_one(engine, picture, question)
        together = scores[row : row + len(alone)]
        torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
        row += len(alone)


@torch.no_grad()
def one_by_one(engine: Engine, picture: Picture, question: Question) -> torch.Tensor:
    """Scores of each token of the answer, as the engine decodes: image, prompt, token by token."""
    model, processor = engine.model, engine.processor
    features = model.encode_image(processor.pixels(picture.image))
    answer = processor.tokenizer.encode(question.answer)
    blocks = [[engine.config.image_token_id] * engine.config.image_tokens]
    blocks += [processor.prompt_ids(question.prompt), *([token] for token in answer)]
    cache = KVCache(engine.config.text, capacity=sum(map(len, blocks)))
    hidden = [model.extend(model.embed(torch.tensor([blocks[0]]), features), cache)]
    hidden += [model.extend(model.embed(torch.tensor([block])), cache) for block in blocks[1:]]
    return model.text.logits(torch.cat(hidden[1:]))


def test_what_is_printed_is_spelt(processor: Processor) -> None:
    text = lay_out([Question("ocr", "ocr", "red42")], processor)
    spelt = [target for target in text.targets if target != NO_TARGET]
    assert [processor.tokenizer.decode([i]) for i in spelt[:-1]] == ["r", "e", "d", "4", "2"]
    assert spelt[-1] == processor.config.eos_id


def test_pictures_of_training_are_those_of_the_chat(processor: Processor) -> None:
    image = draw_scene(random.Random(5)).image
    trained = normalised(as_bytes(image, processor.config.vision.image_size))
    torch.testing.assert_close(trained, processor.pixels(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("seed", range(5))
def test_patches_are_told_what_they_show(seed: int) -> None:
    vision = ModelConfig.from_dict(DEMO.config(100, 99)).vision
    scene = draw_scene(random.Random(seed), count=1, side=200)
    targets = patch_targets(Truth.of(scene), vision)
    thing = scene.things[0]
    shown = targets.colours != NOTHING
    assert shown.any()
    assert set(targets.colours[shown].tolist()) == {list(COLOURS).index(thing.colour) + 1}
    assert set(targets.shapes[shown].tolist()) == {list(SHAPES).index(thing.shape) + 1}
    assert torch.allclose(targets.boxes[shown], torch.tensor(thing.box))
    assert targets.cells.sum() == (scene.owners > 0).sum()
    assert np.allclose(targets.forms[shown].numpy() * 255, scene.forms[0].ravel(), atol=0.01)


def test_patches_are_told_their_letters() -> None:
    vision = ModelConfig.from_dict(DEMO.config(100, 99)).vision
    scene = draw_scene(random.Random(0), count=1, side=200, text=False)
    letters = np.zeros((64, 64), np.uint8)
    letters[4:8, 8:10], letters[4:8, 10:12] = 3, 5  # the halves of the patch in row 1, column 2
    letters[8, 8] = 7  # too little to count
    targets = patch_targets(Truth.of(replace(scene, letters=letters)), vision)
    assert targets.letters[0, 16 + 2].tolist() == [3, 5]
    assert (targets.letters != NOTHING).sum() == 2


def test_seeds_of_training_and_evaluation_never_meet() -> None:
    assert evaluate.FIRST_SEED < evaluate.FIRST_OTHER_SEED < FIRST_SAMPLE_SEED
    assert FIRST_SAMPLE_SEED + 1_000_000 < batches.FIRST_TRAINING_SEED


# Learning


@pytest.mark.parametrize(
    ("done", "expected"),
    [(0.0, 0.0), (0.01, 0.5), (0.3, 1.0), (0.5, 1.0), (0.75, 0.5), (1, 0.02)],
)
def test_the_learning_rate_rises_stays_and_falls(done: float, expected: float) -> None:
    assert Plan(minutes=1).rate(done) == pytest.approx(expected * Plan(minutes=1).learning_rate)


def test_a_few_steps_on_one_batch_are_remembered(folder: Path, processor: Processor) -> None:
    batch = SceneBatches(folder, batch=4, most=1).draw(range(4), processor)
    texts = batch.texts[0].to("cpu")
    learner = Learner(processor.config)
    marks = [step(learner, batch, texts, 3e-3, bfloat16=False) for _ in range(25)]
    assert marks[-1].answers < 0.5 * marks[0].answers
    assert marks[-1].patches.total < 0.8 * marks[0].patches.total
    assert (learner.progress.showings, learner.progress.questions) == (100, 800)


def test_images_are_shown_again_with_other_questions(folder: Path) -> None:
    plan = Plan(minutes=1, batch=2, workers=0, showings=2, most_things=1)
    pool = Pool(folder, 0, plan)
    try:
        seen: dict[bytes, list[bytes]] = {}
        for _ in range(40):
            batch, texts, is_new = pool.next()
            key = batch.pixels.numpy().tobytes()
            assert is_new == (key not in seen)
            seen.setdefault(key, []).append(texts.ids.numpy().tobytes())
    finally:
        pool.close()
    assert {len(asked) for asked in seen.values()} <= {1, 2}
    again = [asked for asked in seen.values() if len(asked) == 2]
    assert again
    assert all(first != second for first, second in again)


def test_a_run_goes_on_where_it_ended_and_is_a_checkpoint(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(minutes=0.01, batch=2, workers=0, most_things=1, report_every=1, bfloat16=False)
    lines: list[str] = []
    first = train(folder, replace(plan, looking=1.0), lines.append).progress
    learner = train(folder, plan, lines.append)
    second = learner.progress
    assert second.images > first.images
    assert (first.questions, second.questions > 0) == (0, True)
    assert second.seconds >= 2 * 0.01 * 60
    assert len(lines) == len(second.history)
    assert (folder / TRAINING_FILE).is_file()
    assert Progress.read(folder) == second
    assert (folder / "curves.png").stat().st_size > 0

    pytest.importorskip("matplotlib")
    monkeypatch.setattr(evaluate, "LONGEST_ANSWER", 4)
    export.export(folder, learner, tmp_path)
    checkpoint = open_checkpoint(tmp_path, ModelConfig.from_folder(tmp_path))
    assert checkpoint.dtype == torch.bfloat16
    assert checkpoint.notices == ()
    report = evaluate.evaluate(tmp_path, questions=1, processes=1)
    assert [len(trial.rows) for trial in report.trials] == [len(KINDS)] * 3
    assert all(row.asked >= 1 for trial in report.trials for row in trial.rows.values())
    export.write_card(folder, tmp_path, report)
    assert f"{second.images:,} drawn" in (tmp_path / "README.md").read_text()
    assert vlmchat.load(tmp_path).engine.config == learner.model.config


def test_published_names_are_those_of_the_files() -> None:
    names = ("text.norm.weight", "vision.post_layernorm.bias", "projector.linear.weight")
    assert [export.published_name(name) for name in names] == [
        "language_model.model.norm.weight",
        "vision_tower.vision_model.post_layernorm.bias",
        "multi_modal_projector.linear.weight",
    ]


# Measuring


def found(label: str, *box: float) -> Detection:
    return Detection(label, (box[0], box[1], box[2], box[3]))


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((0, 0, 1, 1), (0, 0, 1, 1), 1.0),
        ((0, 0, 1, 1), (0, 0, 0.5, 1), 0.5),
        ((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
    ],
)
def test_overlap(one: tuple[float, ...], other: tuple[float, ...], expected: float) -> None:
    assert evaluate.overlap(found("a", *one), found("a", *other)) == pytest.approx(expected)


def test_boxes_are_matched_once_and_by_label() -> None:
    tally = evaluate.Boxes()
    whole, half = found("a", 0, 0, 1, 1), found("a", 0, 0, 0.6, 1)
    assert tally.count([whole], [whole])
    assert not tally.count([whole], [whole, half])  # one too many
    assert not tally.count([whole], [found("b", 0, 0, 1, 1)])
    assert not tally.count([whole, half], [whole])
    assert (tally.wanted, tally.given, tally.matched) == (5, 5, 3)
    assert tally.f1 == pytest.approx(0.6)
    assert tally.mean_overlap == 1.0


def test_a_listing_may_swap_what_lies_equally_far_left() -> None:
    low = replace(HEART, box=(0.41, 0.7, 0.6, 0.9))  # below the ring, and a hair to its right
    contents = Contents((STAR, RING, low))
    assert evaluate.is_listing("red star, blue heart, blue ring", contents)
    assert evaluate.is_listing("red star, blue ring, blue heart", contents)
    assert not evaluate.is_listing("blue ring, red star, blue heart", contents)
    assert not evaluate.is_listing("red star, blue ring", contents)
    assert not evaluate.is_listing("red star, blue ring, blue ring", contents)


def test_the_table_counts_what_was_right() -> None:
    trial = evaluate.Trial("unseen")
    asked = (
        (Question("colour", "answer en what colour is it", "red"), "red"),
        (Question("colour", "answer en what colour is it", "red"), UNANSWERABLE),
        (Question(UNANSWERABLE, "answer en who is it", UNANSWERABLE), UNANSWERABLE),
        (Question("caption", "caption en", "red star"), "red ring"),
    )
    for question, answer in asked:
        trial.count(question, Contents((STAR,)), answer)
    text = evaluate.Report((trial,)).markdown()
    assert "| questions, all kinds together, exact | 96 % | 66.7% |" in text
    assert "| the worst kind | 90 % | 50.0% (colour) |" in text
    assert "| caption, every object right | 90 % | 0.0% |" in text
    assert "| `unanswerable` where it should be | 95 % | 100.0% |" in text
    assert "| `unanswerable` where it should not | < 2 % | 33.3% |" in text
    assert "| colour | 50.0% of 2 |" in text


def test_the_card_says_what_the_model_knows(processor: Processor) -> None:
    text = card(processor.config, Progress("2 CPU cores", images=1234), evaluate.Report(()))
    assert all(word in text for word in (*COLOURS, *SHAPES))
    assert "1,234 drawn scenes" in text.replace("\n", " ")
    assert "2 CPU cores" in text


def test_the_demo_model_fits_the_package() -> None:
    with torch.device("meta"):
        model = PaliGemma(ModelConfig.from_dict(json.loads(json.dumps(DEMO.config(2200, 2199)))))
    assert 2 * sum(p.numel() for p in model.parameters()) < export.MOST_BYTES


def test_nonsense_is_refused() -> None:
    rng = random.Random(1)
    asked = [Asker(rng, CONTENTS).any() for _ in range(3000)]
    shares = sum(q.kind == UNANSWERABLE for q in asked) / len(asked)
    assert 0.05 < shares < 0.2
    assert all((q.answer == UNANSWERABLE) == (q.kind == UNANSWERABLE) for q in asked)


def test_places_begin_as_neighbours(processor: Processor) -> None:
    table = Learner(processor.config).model.text.embed_tokens.weight.detach()
    first, *_ = processor.tokenizer.encode("<loc0000>")
    rows = table[first : first + 1024]
    near = torch.cosine_similarity(rows[:-1], rows[1:]).min()
    far = torch.cosine_similarity(rows[:-300], rows[300:]).max()
    other = table[first - 1]
    assert near > 0.9
    assert far < 0.5
    assert rows.std() == pytest.approx(other.std().item(), rel=0.3)


def test_samples_are_of_the_wanted_kinds(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "LONGEST_ANSWER", 4)  # what it says is of no matter
    learner = Learner(ModelConfig.from_folder(folder))
    export.export(folder, learner, tmp_path)
    lines = list(write_samples(tmp_path, tmp_path / "images", candidates=1))
    counts = [line.split(" (")[0].count(",") + 1 for line in lines]
    assert counts[:2] == [1, 2]
    assert counts[2] in (4, 5)
    assert (tmp_path / "sample.png").read_bytes() == (tmp_path / "images/shapes.png").read_bytes()
    for name in ("star", "pair", "shapes"):
        assert 0 < (tmp_path / "images" / f"{name}.png").stat().st_size < 100_000
