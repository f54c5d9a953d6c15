#!/usr/bin/env python3
"""Compares Sporkle with Hugging Face's libraries, which are no dependency of Sporkle: install them in a virtual
environment of your own (pip install tokenizers torch transformers).

    tools/check_huggingface.py tokenizer [--sporkle build/release/sporkle] [--text FILE]
        Trains tokenizers with both, encodes FILE (default: random Unicode) with both, and compares every token: those of
        Sporkle are read from the token file that `sporkle train` leaves in its cache.
    tools/check_huggingface.py checkpoints [--sporkle build/release/sporkle]
        Trains a model with Sporkle and loads its checkpoint with transformers, and the other way round; the logits of
        every position must agree to 1e-4, and the model's shape and text must survive.
    tools/check_huggingface.py fixtures
        Writes src/train/testdata/tokenizer_*.json, which the tests compare with.

Exit status 1 when anything differs.
"""

import argparse
import array
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tempfile
import unicodedata

ROOT = pathlib.Path(__file__).resolve().parent.parent
TESTDATA = ROOT / "src" / "train" / "testdata"
TOKEN_HEADER_BYTES = 128


def train_tokenizer(text_file: pathlib.Path, vocab_size: int, add_prefix_space: bool = False, use_regex: bool = True):
    """A byte-level BPE trained as `tokenizer = "bpe"` trains it, <|endoftext|> last."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Not from the file: that would be read line by line, and spaces across a line's end cut otherwise.
    tokenizer.train_from_iterator([text_file.read_bytes().decode("utf-8")], trainer)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def merges_of(tokenizer_json: str) -> list[tuple[str, ...]]:
    merges = json.loads(tokenizer_json)["model"]["merges"]
    return [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]


def random_text(count: int, seed: int) -> str:
    """Characters that Python's Unicode tables know, so that neither side may take a letter for something unassigned."""
    generator = random.Random(seed)
    spaces = "\u0085\u00a0\u1680\u2003\u2028\u3000\x1c\u200b\u180e\ufeff\x0b"
    text = []
    while len(text) < count:
        kind = generator.random()
        if kind < 0.4:
            text.append(generator.choice(" \n\t'sdtlrevm  '0123456789"))
        elif kind < 0.6:
            text.append(chr(generator.randrange(32, 127)))
        elif kind < 0.7:
            text.append(generator.choice(spaces))
        else:
            character = chr(generator.randrange(0x110000))
            if unicodedata.category(character) not in ("Cn", "Cs"):
                text.append(character)
    return "".join(text)


def read_token_file(path: pathlib.Path) -> list[int]:
    content = path.read_bytes()
    magic, version, bytes_per_token, count = struct.unpack("<8sIIQ", content[:24])
    assert magic == b"SPKTOKEN" and version == 1, f"{path} is no token file of version 1"
    tokens = array.array("H" if bytes_per_token == 2 else "I", content[TOKEN_HEADER_BYTES:])
    assert len(tokens) == count
    return tokens.tolist()


def sporkle_tokens(sporkle: pathlib.Path, text_file: pathlib.Path, tokenizer: str, vocab_size: int, folder: pathlib.Path):
    """The tokens of the file by `sporkle train`, and the tokenizer.json of its checkpoint."""
    folder.mkdir()
    config = folder / "config.toml"
    config.write_text(
        f'[data]\npath = {json.dumps(str(text_file))}\ntokenizer = {json.dumps(tokenizer)}\nvocab_size = {vocab_size}\n'
        f'[model]\nlayers = 1\nheads = 1\nwidth = 8\ncontext = 8\n'
        f'[train]\nsteps = 1\nbatch_size = 1\neval_batches = 1\n'
        f'[output]\ndirectory = {json.dumps(str(folder / "out"))}\n',
        encoding="utf-8",
    )
    environment = {**os.environ, "SPORKLE_CACHE": str(folder / "cache")}
    subprocess.run([str(sporkle), "train", str(config)], env=environment, check=True, stdout=subprocess.DEVNULL)
    (token_file,) = (folder / "cache" / "tokens").glob("*.tokens")
    written = folder / "out" / "latest" / "tokenizer.json"
    return read_token_file(token_file), written.read_text(encoding="utf-8")


def first_difference(ours: list[int], theirs: list[int], tokenizer) -> str:
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
    around = slice(max(place - 3, 0), place + 3)
    names = [[tokenizer.id_to_token(token) for token in tokens[around]] for tokens in (ours, theirs)]
    return f"token {place}: Sporkle {names[0]}, Hugging Face {names[1]}"


def check_tokenizers(sporkle: pathlib.Path, text_file: pathlib.Path | None) -> int:
    from tokenizers import Tokenizer

    failures = 0

    def report(what: str, problem: str | None) -> None:
        nonlocal failures
        failures += problem is not None
        print(f"{'DIFFERS' if problem else 'equal':8} {what}{': ' + problem if problem else ''}")

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        if not text_file:
            text_file = folder / "random.txt"
            text_file.write_text(random_text(200_000, seed=1), encoding="utf-8", newline="")
        text = text_file.read_bytes().decode("utf-8")
        vocab_size = 2048
        variants = {
            "GPT-2's form": {},
            "add_prefix_space": {"add_prefix_space": True},
        }
        for number, (what, options) in enumerate(variants.items()):
            theirs = train_tokenizer(text_file, vocab_size, **options)
            path = folder / f"tokenizer-{number}.json"
            theirs.save(str(path))
            expected = theirs.encode(text, add_special_tokens=False).ids
            tokens, written = sporkle_tokens(sporkle, text_file, str(path), vocab_size, folder / f"run-{number}")
            same = tokens == expected
            report(f"tokens of a tokenizer.json from Hugging Face, {what}",
                   None if same else first_difference(tokens, expected, theirs))
            again = Tokenizer.from_str(written).encode(text, add_special_tokens=False).ids
            report("tokens of the same after Sporkle wrote it",
                   None if again == expected else first_difference(again, expected, theirs))
        theirs = train_tokenizer(text_file, vocab_size)
        tokens, written = sporkle_tokens(sporkle, text_file, "bpe", vocab_size, folder / "run-bpe")
        same = merges_of(written) == merges_of(theirs.to_str())
        report("merges that both learn", None if same else "another order or other pairs")
        ours = Tokenizer.from_str(written)
        expected = ours.encode(text, add_special_tokens=False).ids
        report("tokens of a tokenizer.json from Sporkle",
               None if tokens == expected else first_difference(tokens, expected, ours))
    return failures


MOST_LOGIT_DIFFERENCE = 1e-4


def sporkle_logits(sporkle: pathlib.Path, checkpoint: pathlib.Path, text_file: pathlib.Path, environment: dict):
    """The text's first tokens and their logits, [tokens, vocabulary], by `sporkle eval --logits`."""
    command = [str(sporkle), "eval", str(checkpoint), str(text_file), "--logits"]
    result = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
    return result["tokens"], result["logits"]


def compare_logits(what: str, model, tokens: list[int], logits: list[list[float]]) -> bool:
    import torch

    with torch.no_grad():
        expected = model(torch.tensor([tokens])).logits[0]
    found = torch.tensor(logits)
    if found.shape != expected.shape:
        print(f"DIFFERS  {what}: shapes {tuple(found.shape)} and {tuple(expected.shape)}")
        return False
    difference = (found - expected).abs().max().item()
    equal = difference <= MOST_LOGIT_DIFFERENCE
    print(f"{'equal' if equal else 'DIFFERS':8} {what}: largest difference {difference:.2e} among {found.numel()} logits "
          f"up to {expected.abs().max().item():.2f}")
    return equal


def check_their_checkpoint(sporkle: pathlib.Path, kind: str, model, folder: pathlib.Path, text_file: pathlib.Path,
                           environment: dict) -> bool:
    """Whether a model of transformers has the same logits, and writes the same, in Sporkle."""
    import torch
    from tokenizers import Tokenizer

    theirs = folder / f"huggingface-{kind}"
    model.save_pretrained(theirs)
    (theirs / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    tokens, logits = sporkle_logits(sporkle, theirs, text_file, environment)
    equal = compare_logits(f"a {kind} of transformers in Sporkle", model, tokens, logits)
    prompt = "And God said"
    written = subprocess.run(
        [str(sporkle), "generate", str(theirs), "--prompt", prompt, "--tokens", "40", "--temperature", "0", "--json"],
        env=environment, check=True, stdout=subprocess.PIPE).stdout
    # Each side has its own idea of how many replacement characters stand for malformed bytes.
    text = re.sub("\ufffd+", "\ufffd", json.loads(written.splitlines()[-1])["text"])
    tokenizer = Tokenizer.from_file(str(theirs / "tokenizer.json"))
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    end = tokenizer.token_to_id("<|endoftext|>")
    expected_ids = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False,
                                  eos_token_id=end, pad_token_id=end)[0, ids.shape[1]:].tolist()
    expected = re.sub("\ufffd+", "\ufffd", tokenizer.decode([token for token in expected_ids if token != end]))
    print(f"{'equal' if text == expected else 'DIFFERS':8} the likeliest continuation, token by token, {kind}"
          f"{'' if text == expected else f': Sporkle {text!r}, Hugging Face {expected!r}'}")
    return equal and text == expected


def check_checkpoints(sporkle: pathlib.Path) -> int:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(1)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        environment = {**os.environ, "SPORKLE_CACHE": str(folder / "cache")}
        text_file = folder / "text.txt"
        text_file.write_text(FIXTURE_TEXT * 20, encoding="utf-8", newline="")
        llama = 'architecture = "llama"\nkv_heads = 2\nrotary_base = 500.0\n'
        for kind, tokenizer, keys in (("gpt2", "bytes", ""), ("gpt2", "bpe", ""), ("llama", "bytes", llama),
                                      ("llama, head of its own", "bpe", llama + 'head = "separate"\n')):
            output = folder / f"sporkle-{kind}-{tokenizer}"
            config = folder / f"{kind}-{tokenizer}.toml"
            config.write_text(
                f'[data]\npath = {json.dumps(str(text_file))}\ntokenizer = "{tokenizer}"\nvocab_size = 400\n'
                f'[model]\n{keys}layers = 3\nheads = 4\nwidth = 64\ncontext = 96\n'
                f'[train]\nsteps = 60\nbatch_size = 4\nlearning_rate = 3e-3\neval_batches = 1\n'
                f'[output]\ndirectory = {json.dumps(str(output))}\n',
                encoding="utf-8",
            )
            subprocess.run([str(sporkle), "train", str(config)], env=environment, check=True, stdout=subprocess.DEVNULL)
            model = AutoModelForCausalLM.from_pretrained(output / "latest").eval()
            tokens, logits = sporkle_logits(sporkle, output, text_file, environment)
            failures += not compare_logits(f"Sporkle's {kind} in transformers, {tokenizer}", model, tokens, logits)
            # Once more through transformers' own files.
            again = folder / f"again-{kind}-{tokenizer}"
            model.save_pretrained(again)
            for kept in ("sporkle.json", "tokenizer.json"):
                if (output / "latest" / kept).exists():
                    (again / kept).write_bytes((output / "latest" / kept).read_bytes())
            tokens, logits = sporkle_logits(sporkle, again, text_file, environment)
            failures += not compare_logits(f"the same saved by transformers, {kind}, {tokenizer}", model, tokens, logits)
        train_tokenizer(text_file, 400).save(str(folder / "tokenizer.json"))
        # Larger than usual, so that the logits are not all alike.
        common = {"vocab_size": 400, "initializer_range": 0.2, "bos_token_id": 399, "eos_token_id": 399}
        gpt2 = GPT2LMHeadModel(GPT2Config(n_positions=80, n_embd=48, n_layer=2, n_head=3, **common))
        llama = LlamaForCausalLM(LlamaConfig(max_position_embeddings=80, hidden_size=48, intermediate_size=80,
                                             num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2, **common))
        for kind, model in (("gpt2", gpt2.eval()), ("llama", llama.eval())):
            failures += not check_their_checkpoint(sporkle, kind, model, folder, text_file, environment)
    return failures


FIXTURE_TEXT = (
    "In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness was "
    "upon the face of the deep. And the Spirit of God moved upon the face of the waters. And God said, Let there be "
    "light: and there was light. And God saw the light, that it was good: and God divided the light from the darkness. "
    "And God called the light Day, and the darkness he called Night. And the evening and the morning were the first day.\n"
    "I'm, you're, we've, he'll, she'd, it's, don't; 1611, 2024, 3.14159;  two  spaces,   three.\n\n"
    "Grüße, naïve café, Ελληνικά, русский язык, 中文文本, 日本語, العربية, हिन्दी, 😀😀👍🏽, x² + y² = ½.\n"
)
FIXTURE_CASES = [
    "", " ", "  ", "a", " a", "  a", "a ", "a  ", "\n", " \n a", "\n\n\nthe earth", "the heaven and the earth",
    "it's its' 's 'S ''s 'll'll ' s", "I'M YOU'RE", "1234567890 12 345 6", "no-break\u00a0space \u00a0\u00a0x",
    "\u3000ideographic\u2003em\u2028line\u0085next\x1cfs\x0bvt\u200bzero\ufeffbom", "e\u0301 combining \u0301",
    "x²½Ⅻ٣", "!?... --- (a) [b] {c} $%^&*", "tab\tseparated\t\tvalues\r\nlines\r\n", "😀👍🏽 \U0001f469\u200d\U0001f4bb",
    "中文文本中文", "<|endoftext|>", "a<|endoftext|>b <|endoftext|> c", "<|endoftext", "\x00\x01\x7f",
    "the " * 20, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", " " * 17 + "x",
]


def write_fixtures() -> int:
    with tempfile.TemporaryDirectory() as name:
        text_file = pathlib.Path(name) / "text.txt"
        text_file.write_text(FIXTURE_TEXT, encoding="utf-8", newline="")
        tokenizer = train_tokenizer(text_file, 400)
    cases = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in FIXTURE_CASES]
    TESTDATA.mkdir(exist_ok=True)
    (TESTDATA / "tokenizer_huggingface.json").write_text(json.dumps(json.loads(tokenizer.to_str())) + "\n")
    expected = ",\n".join(json.dumps(case) for case in cases)
    (TESTDATA / "tokenizer_expected.json").write_text(
        f'{{"training_text": {json.dumps(FIXTURE_TEXT)},\n"cases": [\n{expected}\n]}}\n')
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    tokenizer = commands.add_parser("tokenizer", help="compare tokenizers")
    tokenizer.add_argument("--sporkle", type=pathlib.Path, default=ROOT / "build" / "release" / "sporkle")
    tokenizer.add_argument("--text", type=pathlib.Path)
    checkpoints = commands.add_parser("checkpoints", help="compare models")
    checkpoints.add_argument("--sporkle", type=pathlib.Path, default=ROOT / "build" / "release" / "sporkle")
    commands.add_parser("fixtures", help="write the tests' fixtures")
    arguments = parser.parse_args()
    if arguments.command == "fixtures":
        return write_fixtures()
    if arguments.command == "checkpoints":
        return 1 if check_checkpoints(arguments.sporkle) else 0
    return 1 if check_tokenizers(arguments.sporkle, arguments.text) else 0


if __name__ == "__main__":
    sys.exit(main())
