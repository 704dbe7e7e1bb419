"""The datasets of LongBench and LV-Eval: scorer, tokens of an answer, prompt.

Prompts are ours, in few words: scores are not comparable digit by digit with published ones. The
published `dataset2prompt.json` and `dataset2maxlen.json` can be given instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from moa_tools.evaluate.longbench import scorers
from moa_tools.evaluate.longbench.scorers import Scorer

_QA = (
    "Read the text, then answer the question about it in as few words as you can.\n\nText:\n"
    "{context}\n\nQuestion: {input}\nAnswer in as few words as you can:"
)
_QA_CHINESE = "阅读下面的文字，然后用中文简短地回答问题。\n\n{context}\n\n问题：{input}\n简短回答："
_SUMMARY = (
    "Read the text, then summarise it on one page.\n\nText:\n{context}\n\nSummary of the text:"
)
_SUMMARY_CHINESE = "阅读下面的会议记录，然后写出总结。\n\n{context}\n\n总结："
_QUERY = (
    "Read the record of a meeting, then answer the query about it in a few sentences.\n\n{context}"
    "\n\nQuery: {input}\nAnswer:"
)
_EXAMPLES = "Go on in the manner of these examples.\n\n{context}\n{input}"
_EXAMPLES_CHINESE = "请按照下面的例子继续。\n\n{context}\n{input}"
_COUNT = (
    "Some of the paragraphs below occur more than once. Count the different paragraphs.\n\n"
    "{context}\n\nNumber of different paragraphs, as a number only:"
)
_FIND = (
    "Below are numbered paragraphs and then a summary of one of them. Find that paragraph.\n\n"
    '{context}\n\nSummary:\n{input}\n\nAnswer in the form "Paragraph 1":'
)
_FIND_CHINESE = (
    "下面是带编号的段落和其中一段的摘要。找出这一段。\n\n{context}\n\n摘要：\n{input}"
    "\n\n用“段落1”的形式回答："
)
_CODE = "Complete this code by its next line.\n{context}{input}"


@dataclass(frozen=True)
class Dataset:
    """How one dataset is asked and graded."""

    scorer: Scorer
    answer_tokens: int
    prompt: str
    chat: bool = True  # few-shot examples and code go to the model as they are
    first_line: bool = False  # only the first line of the answer is graded


def _raw(scorer: Scorer, tokens: int, prompt: str, first_line: bool) -> Dataset:
    return Dataset(scorer, tokens, prompt, chat=False, first_line=first_line)


LONGBENCH: dict[str, Dataset] = {
    "narrativeqa": Dataset(scorers.qa_f1, 128, _QA),
    "qasper": Dataset(scorers.qa_f1, 128, _QA),
    "multifieldqa_en": Dataset(scorers.qa_f1, 64, _QA),
    "multifieldqa_zh": Dataset(scorers.qa_f1_chinese, 64, _QA_CHINESE),
    "hotpotqa": Dataset(scorers.qa_f1, 32, _QA),
    "2wikimqa": Dataset(scorers.qa_f1, 32, _QA),
    "musique": Dataset(scorers.qa_f1, 32, _QA),
    "dureader": Dataset(scorers.rouge_l_chinese, 128, _QA_CHINESE),
    "gov_report": Dataset(scorers.rouge_l, 512, _SUMMARY),
    "qmsum": Dataset(scorers.rouge_l, 512, _QUERY),
    "multi_news": Dataset(scorers.rouge_l, 512, _SUMMARY),
    "vcsum": Dataset(scorers.rouge_l_chinese, 512, _SUMMARY_CHINESE),
    "trec": _raw(scorers.classification, 64, _EXAMPLES, True),
    "triviaqa": _raw(scorers.qa_f1, 32, _EXAMPLES, True),
    "samsum": _raw(scorers.rouge_l, 128, _EXAMPLES, True),
    "lsht": _raw(scorers.classification, 64, _EXAMPLES_CHINESE, True),
    "passage_count": Dataset(scorers.count, 32, _COUNT),
    "passage_retrieval_en": Dataset(scorers.retrieval, 32, _FIND),
    "passage_retrieval_zh": Dataset(scorers.retrieval_chinese, 32, _FIND_CHINESE),
    "lcc": _raw(scorers.code_similarity, 64, _CODE, False),
    "repobench-p": _raw(scorers.code_similarity, 64, _CODE, False),
}

LVEVAL: dict[str, Dataset] = {
    "hotpotwikiqa_mixup": Dataset(scorers.keyword_f1, 64, _QA),
    "loogle_SD_mixup": Dataset(scorers.keyword_f1, 64, _QA),
    "loogle_CR_mixup": Dataset(scorers.keyword_f1, 64, _QA),
    "loogle_MIR_mixup": Dataset(scorers.keyword_f1, 64, _QA),
    "multifieldqa_en_mixup": Dataset(scorers.keyword_f1, 64, _QA),
    "multifieldqa_zh_mixup": Dataset(scorers.keyword_f1_chinese, 64, _QA_CHINESE),
    "factrecall_en": Dataset(scorers.qa_f1, 16, _QA),
    "factrecall_zh": Dataset(scorers.qa_f1_chinese, 16, _QA_CHINESE),
    "cmrc_mixup": Dataset(scorers.keyword_f1_chinese, 64, _QA_CHINESE),
    "lic_mixup": Dataset(scorers.keyword_f1_chinese, 64, _QA_CHINESE),
    "dureader_mixup": Dataset(scorers.rouge_l_chinese, 64, _QA_CHINESE),
}
