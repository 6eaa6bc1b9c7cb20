"""The passkey task: a number is told once inside a long text and asked for at its end (arXiv:2305.16300, section 4.2).

Perplexity says little about whether a model can use what stood far back: most of what makes a token likely is near it. Here
nothing near helps. The text is invented Chinese filler without a single digit; somewhere in it stands

    口令是48213。请记住，48213就是口令。

and it ends with 文中的口令是什么？口令是. The number stands at 10, 50 or 90 % of the filler. All is drawn from the seed, the numbers
also independently of the length, so two lengths, schemes or models are asked for the same ones.

Two answers are judged. *greedy*: what the model says is the number. That is the task as published, and a base model of 0.1 B
parameters seldom does it. *likelihood*: of ten numbers, of which nine stand nowhere, the right one is the most likely to come
next. That shows earlier that the text was read; guessing gives 1 in 10. A tie counts against the model, so one that
says the same of all ten gets nothing.

A prompt is as long as asked, answer included, or short of it by less than a sentence. One row at a time goes through a
key-value cache, in parts, so memory is that of the cache and one part; the ten candidates share the cache of the
prompt. Its capacity is the length that is measured, because positions that depend on the length (dynamic NTK, CLEX) are made
for the capacity of the cache.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jielong.infer.cache import KVCache
from jielong.model.transformer import CausalLM
from jielong.tokenizer.folder import TokenizerFolder

DEPTHS = (10, 50, 90)  # where the number stands, % of the filler
CANDIDATES = 10
CHANCE = 1 / CANDIDATES
CHUNK = 512  # tokens that go through the model together: a bias or mask is heads x CHUNK x length numbers

HEAD = "下面是一段很长的文字，里面有一个口令。请记住它，最后会问到。\n"
STATEMENT = "口令是{key}。请记住，{key}就是口令。"
QUESTION = "\n文中的口令是什么？口令是"
FILLER = (
    "清晨的河面上浮着一层薄雾，远处的渔船还没有起锚。",
    "老人坐在巷口的石凳上，慢慢地剥着一篮新摘的豌豆。",
    "图书馆的窗户朝南，下午的阳光正好落在靠窗的书桌上。",
    "雨停了以后，院子里的石榴树显得格外精神。",
    "孩子们在操场上放风筝，笑声传出很远。",
    "山脚下有一家小面馆，来往的司机都喜欢在那里歇脚。",
    "邻居家的猫又跳上了屋顶，懒懒地晒着太阳。",
    "火车穿过隧道，车厢里忽然暗了下来。",
    "她把晒干的菊花装进罐子，贴上一张小小的标签。",
    "工匠用了整个冬天，才把那扇旧木门修好。",
    "傍晚的市场渐渐安静，摊主们开始收拾剩下的蔬菜。",
    "那条小路两旁种满了银杏，秋天时一片金黄。",
    "医生嘱咐他多喝水，早些休息，不要熬夜。",
    "海风带着咸味，吹得晾在绳上的衣服轻轻摇晃。",
    "教室的黑板上还留着昨天没有擦去的图画。",
    "他学着母亲的样子揉面，却总是掌握不好水的多少。",
    "桥下的水很浅，能看见石头之间游动的小鱼。",
    "剧场里坐满了人，大家都在等幕布拉开。",
    "村里的水井已经很久没人使用，井沿上长满了青苔。",
    "天气预报说夜里有风，他便把花盆都搬进了屋里。",
    "修表的师傅戴上放大镜，小心地拨动细小的齿轮。",
    "信封里夹着一片压平的枫叶，颜色依然鲜亮。",
    "运动会结束以后，操场上只剩下几面彩旗。",
    "她喜欢在睡前读几页游记，想象自己走在陌生的城里。",
    "茶馆里的说书人一拍醒木，满屋子顿时安静下来。",
    "菜园的篱笆旁爬满了牵牛花，早上开得最好。",
    "船长望着海图，决定等潮水涨起来再出发。",
    "冬天的湖面结了冰，几只水鸟在岸边走来走去。",
    "博物馆新开的展厅里，陈列着许多古老的乐器。",
    "他们约好在车站见面，然后一起去看望从前的老师。",
    "面包店的香味飘到街角，路过的人都放慢了脚步。",
    "夜深了，楼上的琴声也慢慢停了下来。",
)


class Puzzle(NamedTuple):
    """A prompt's tokens and those that each candidate would go on with; the first candidate is right."""

    prompt: list[int]
    answers: list[list[int]]
    key: str


class Answer(NamedTuple):
    """What a model made of a puzzle. rank: 1 where the right number is the most likely of the candidates."""

    said: str
    right: bool
    rank: int


# -------------------------------------------------------------------------------------------------------- reading


@torch.no_grad()
def read(model: CausalLM, ids: Sequence[int], cache: KVCache, last: int, chunk: int = CHUNK) -> Tensor:
    """Let a row go through the model into the cache; the hidden states of its last tokens, (last, C).

    The row is read in parts of at most `chunk` tokens, the last tokens apart from those before.
    """
    device = next(model.parameters()).device
    row_T, cut = torch.tensor(ids, device=device), len(ids) - last
    assert 0 < last <= len(ids)

    def part(begin: int, end: int) -> Tensor:
        hidden_TC: Tensor = model.model(row_T[None, begin:end], cache=cache)[0][0]
        return hidden_TC

    for begin in range(0, cut, chunk):
        part(begin, min(begin + chunk, cut))
    return torch.cat([part(begin, min(begin + chunk, len(ids))) for begin in range(cut, len(ids), chunk)])


def new_cache(model: CausalLM, length: int) -> KVCache:
    """A cache for one row of `length` tokens, in the weights' precision."""
    weight = model.model.embed_tokens.weight
    return KVCache(model.config, 1, length, weight.device, weight.dtype)


def start_of(tokenizer: TokenizerFolder) -> int:
    """The token that a row begins with: what stands before every document in training."""
    return tokenizer.end_id if tokenizer.start_id is None else tokenizer.start_id


# ------------------------------------------------------------------------------------------------------ the puzzle


def make_puzzle(tokenizer: TokenizerFolder, length: int, depth: int, number: int, seed: int) -> Puzzle | None:
    """Puzzle `number` of a seed at a depth (%), of at most `length` tokens with its answer; None: it does not fit."""
    chance = random.Random(f"{seed} {depth} {number}")  # of the length nothing
    keys = [str(key) for key in chance.sample(range(10_000, 100_000), CANDIDATES)]
    sizes = dict(zip(FILLER, map(len, tokenizer.encode(list(FILLER))), strict=True))
    statement = STATEMENT.format(key=keys[0])
    [bare] = tokenizer.encode([HEAD + statement + QUESTION + keys[0]])
    room, sentences = length - 1 - len(bare), list[str]()
    deck: list[str] = []
    while True:
        deck = deck or chance.sample(FILLER, len(FILLER))
        if sizes[deck[-1]] > room:
            break
        room -= sizes[deck[-1]]
        sentences.append(deck.pop())
    while sentences:
        before = _depth(sentences, sizes, depth)
        prompt = HEAD + "".join(sentences[:before]) + statement + "".join(sentences[before:]) + QUESTION
        ids, *full = tokenizer.encode([prompt, *(prompt + key for key in keys)])
        if 1 + max(map(len, full)) <= length:
            # where prompt and number share a token, that one belongs to the answer
            shared = min(sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, one, strict=False))) for one in full)  # fmt: skip
            return Puzzle([start_of(tokenizer), *ids[:shared]], [one[shared:] for one in full], keys[0])
        sentences.pop()  # across sentences the tokens are more than their sum
    return None


def _depth(sentences: list[str], sizes: dict[str, int], depth: int) -> int:
    """How many sentences stand before the number, so that `depth` % of the filler's tokens do, as nearly as can be."""
    total = sum(sizes[sentence] for sentence in sentences)
    best, gone, nearest = 0, 0, total * depth / 100
    for place, sentence in enumerate(sentences, 1):
        gone += sizes[sentence]
        if abs(gone - total * depth / 100) < nearest:
            best, nearest = place, abs(gone - total * depth / 100)
    return best


@torch.no_grad()
def ask(model: CausalLM, tokenizer: TokenizerFolder, puzzle: Puzzle, cache: KVCache) -> Answer:
    """Read the prompt, take the greedy answer, and compare the candidates. The cache must be empty; it is left empty."""
    device = next(model.parameters()).device
    assert cache.length == 0

    def log_probabilities(hidden_TC: Tensor) -> Tensor:
        logits_TV: Tensor = model.lm_head(hidden_TC)
        return logits_TV.float().log_softmax(dim=-1)

    first_V = log_probabilities(read(model, puzzle.prompt, cache, 1))[0]
    length, said = cache.length, [int(first_V.argmax())]
    for _ in range(max(map(len, puzzle.answers))):  # one more than the longest: a longer number is another number
        hidden_TC = model.model(torch.tensor([said[-1:]], device=device), cache=cache)[0][0]
        said.append(int(model.lm_head(hidden_TC[-1]).argmax()))
    scores = []
    for answer in puzzle.answers:
        cache.length = length  # what came after the prompt is overwritten
        score = first_V[answer[0]]
        if len(answer) > 1:
            rest_TV = log_probabilities(model.model(torch.tensor([answer[:-1]], device=device), cache=cache)[0][0])
            score = score + rest_TV.gather(1, torch.tensor(answer[1:], device=device)[:, None]).sum()
        scores.append(float(score))
    cache.length = 0
    text = tokenizer.decode(said)
    number = re.search(r"[0-9]+", text)
    rank = 1 + sum(not scores[0] > other for other in scores[1:])  # "not >": ties and NaN count against the model
    return Answer(text, number is not None and number[0] == puzzle.key, rank)


def measure_passkey(
    model: CausalLM,
    tokenizer: TokenizerFolder,
    length: int,
    trials: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> dict[str, Any] | None:
    """Accuracies at one length, over `trials` prompts at each depth (0: not asked); None where the task is longer than that.

    greedy, likelihood: shares of the prompts that were answered rightly; mean_rank: of the right number among the
    CANDIDATES, from 1; tokens: of the longest prompt. The model is expected in its evaluation mode.
    """
    if trials == 0:
        return None
    by_depth: dict[str, dict[str, float]] = {}
    answers: list[Answer] = []
    cache, longest = new_cache(model, length), 0
    for depth in DEPTHS:
        puzzles = [make_puzzle(tokenizer, length, depth, number, seed) for number in range(trials)]
        found = []
        for puzzle in puzzles:
            if puzzle is None:
                return None
            found.append(ask(model, tokenizer, puzzle, cache))
            longest = max(longest, len(puzzle.prompt))
            if progress is not None:
                progress(length)
        by_depth[str(depth)] = _shares(found)
        answers += found
    return {**_shares(answers), "prompts": len(answers), "tokens": longest, "by_depth": by_depth}


def _shares(answers: list[Answer]) -> dict[str, float]:
    count = len(answers)
    return {
        "greedy": sum(answer.right for answer in answers) / count,
        "likelihood": sum(answer.rank == 1 for answer in answers) / count,
        "mean_rank": sum(answer.rank for answer in answers) / count,
    }
