#!/usr/bin/env python3
"""Makes small tokenizers of the kinds that umT5's checkpoints have, and the ids that the library tokenizers gives.

    make_tokenizers.py OUT.json     a list of {tokenizer: its tokenizer.json, ids: {text: its ids, uncut}}

Texts are cleaned as the Wan pipelines clean them, then encoded. Wants ftfy, sentencepiece, tokenizers.
"""

import html
import io
import json
import re
import sys
import tempfile
from pathlib import Path

import ftfy
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from sentencepiece import sentencepiece_model_pb2

CORPUS = ["A red fox runs through fresh snow while the sun rises.", "two cats fight on a stage under a bright light",
          "一只红色的狐狸在雪地里奔跑", "the sea, the hills and a small boat at night", "file office flow ½ ² Å é"]
TEXTS = ["", "A red fox", "a </s> b", "</s>", "</s></s>x", "<pad><unk><s>", "x <extra_id_0> y<extra_id_7>z", "<extra_id_", "a<b>c",
         "🦊🦊 fox 🦊", "ж fox жж", "红色 fox，狐狸！", "ﬁle o\ufb03ce ² ½ Å e\u0301 A\u030a", "a\u200bb \u3000c", "the sea  and\tthe\nhills",
         "<0x41> <0xF0>", "▁a ▁", "red<hat>fox <hat> red", "foxtail fox tail", "नमस्ते क्षि", "👩‍👩‍👧 a", "x" * 40, "ab" * 300]


def clean(text):
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return re.sub(r"\s+", " ", text.strip()).strip()


def train(**options):
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.tsv"  # code points, what stands for them
        rules.write_text("B2\t32\nC5\t41\nFB01\t66 69\n61 30A\t41\n1F98A\t\n65 66\t46\n200B\t20\n")
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=options.pop("vocab_size", 150), hard_vocab_limit=False,
            pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>", normalization_rule_tsv=str(rules), minloglevel=2, **options)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.getvalue())
    return [(piece.piece, piece.score) for piece in proto.pieces], proto.normalizer_spec.precompiled_charsmap


def make(pieces, normalizer, pre_tokenizer, bytes=False, sentinels=0, added=()):
    pieces = pieces + [("<extra_id_{}>".format(i), 0.0) for i in range(sentinels - 1, -1, -1)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3, byte_fallback=bytes))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(["<pad>", "</s>", "<s>", "<unk>"] + ["<extra_id_{}>".format(i) for i in range(sentinels)])
    tokenizer.add_tokens(list(added))
    return tokenizer


def main():
    pieces, charsmap = train()
    with_bytes, _ = train(byte_fallback=True, vocab_size=420)
    pre, norm = pre_tokenizers, normalizers
    spaces = norm.Replace(Regex(" {2,}"), "▁")
    tokenizers = [
        make(pieces, norm.Precompiled(charsmap), pre.Sequence([pre.WhitespaceSplit(), pre.Metaspace()]), sentinels=10),
        make(pieces, norm.Sequence([norm.Precompiled(charsmap), norm.Strip(left=False, right=True), spaces]), pre.Metaspace(), sentinels=3),
        make(with_bytes, norm.NFKC(), pre.Metaspace(prepend_scheme="first"), bytes=True),
        make(with_bytes, norm.Replace(" ", "▁"), pre.Metaspace(prepend_scheme="never")),
        make(pieces, norm.NFC(), pre.Metaspace(), added=[AddedToken("<hat>", lstrip=True), AddedToken("fox", single_word=True, normalized=False),
                                                     AddedToken("sea", rstrip=True, normalized=True)]),
    ]
    cases = []
    for tokenizer in tokenizers:
        ids = {text: tokenizer.encode(clean(text)).ids for text in TEXTS}
        cases.append({"tokenizer": json.loads(tokenizer.to_str()), "ids": ids})
    Path(sys.argv[1]).write_text(json.dumps(cases, ensure_ascii=False), encoding="utf8")


if __name__ == "__main__":
    main()
