"""The peers compute the same function, and a peer that does not is found out."""

from dataclasses import replace

import pytest
import torch
from moa_rt import HeadSpan, NumericError
from moa_tools.bench import attention, huggingface, peers, shapes
from moa_tools.bench import attention_cases as cases
from moa_tools.bench.attention import _check
from moa_tools.bench.attention_cases import AttentionCase
from moa_tools.bench.decode_run import Setting
from moa_tools.bench.peers import CPU_GROUPS, Inputs, make_inputs, reference_error
from moa_tools.bench.record import Missing, Row
from moa_tools.bench.statistics import Rounds

SPANS = (HeadSpan(4, 12), HeadSpan(4, 60))
CASE = AttentionCase("tiny", "mixed", 4, 2, 48, 2, SPANS, head_dim=16)
flex = CPU_GROUPS["attention-flex"]["flex_attention"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(3)


def brute(inputs: Inputs, batch: int, head: int, row: int, query: int) -> torch.Tensor:
    """One output row from the definition of the mask, in float64."""
    span = inputs.case.spans[head // inputs.case.group]
    keys = [k for k in range(query + 1) if k < span.sink or query - k < span.window]
    kv = head // inputs.case.group
    q = inputs.q[batch, head, row].double()
    k, v = (t[batch, kv, keys].double() for t in (inputs.k, inputs.v))
    out: torch.Tensor = torch.softmax(k @ q / 4.0, 0) @ v
    return out


@pytest.mark.parametrize("decode", [True, False])
def test_flex_attention_has_the_plan_as_its_mask(decode: bool) -> None:
    inputs = make_inputs(CASE, decode, "cpu", torch.float32)
    out = flex(inputs)()
    for head in range(4):
        for row in [0] if decode else [0, 15, 16, 47]:
            query = 47 if decode else row
            want = brute(inputs, 1, head, row, query).float()
            torch.testing.assert_close(out[1, head, row], want, rtol=1e-4, atol=1e-5)
    assert reference_error(inputs, out) < 1e-5


def test_a_peer_with_a_window_off_by_one_is_found_out() -> None:
    inputs = make_inputs(CASE, True, "cpu", torch.float32)
    wider = replace(CASE, spans=(HeadSpan(4, 13), SPANS[1]))
    out = flex(replace(inputs, case=wider))()
    with pytest.raises(NumericError, match="flex"):
        _check("flex", inputs, out)


def test_heads_flattened_into_the_batch_keep_what_the_plan_keeps() -> None:
    inputs = make_inputs(CASE, True, "cpu", torch.float32)
    q, k, v, ends, longest = peers._packed(inputs)
    assert ends.tolist() == [0, 16, 64, 80, 128]
    assert longest == 48
    assert q.shape == (4, 2, 16)
    for sequence in range(4):
        batch, kv = divmod(sequence, 2)
        part = slice(int(ends[sequence]), int(ends[sequence + 1]))
        for member in range(2):
            scores = k[part, 0] @ q[sequence, member] / 4.0
            got = torch.softmax(scores, 0) @ v[part, 0]
            want = brute(inputs, batch, 2 * kv + member, 0, 47).float()
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_sdpa_refuses_what_it_has_no_mask_for() -> None:
    inputs = make_inputs(CASE, True, "cpu", torch.float32)
    with pytest.raises(NotImplementedError):
        CPU_GROUPS["attention"]["SDPA math"](inputs)


def test_cases_are_those_of_the_kernel_benchmark() -> None:
    mixed = cases.mixed(cases.MHA, 8192, 8, 0.5)
    assert sum(head.span for head in mixed.spans) == 32 * 4096
    assert [head.span // 1024 for head in mixed.spans[:8]] == [1, 7, 1, 6, 7, 1, 7, 2]
    assert mixed.kept_bytes == 8 * 32 * 4096 * 512
    assert not mixed.dense
    assert cases.dense(cases.GQA, 4096, 1).dense
    quarter = cases.mixed(cases.GQA, 8192, 8, 0.25)
    assert sum(head.span for head in quarter.spans) == 8 * 2048


def test_a_group_measures_its_peers_alone_and_names_what_is_not_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "decode_cases", lambda *_: [])
    monkeypatch.setattr(attention, "prefill_cases", lambda *_: [CASE])
    rows = list(attention.measure("attention-flex", "cpu", {}, True))
    assert [(row.system, row.section) for row in rows if isinstance(row, Row)] == [
        ("flex_attention", attention.PREFILL)
    ]
    monkeypatch.setitem(peers.NEEDS, "attention-flashinfer", "no_such_module")
    assert list(attention.measure("attention-flashinfer", "cpu", {}, True)) == [
        Missing("FlashInfer, heads as sequences", "the module no_such_module is not installed")
    ]


def test_a_peer_that_fails_leaves_the_others_of_its_group() -> None:
    def broken(_inputs: Inputs) -> peers.Work:
        raise RuntimeError("no kernel")

    both = {"broken": broken, **CPU_GROUPS["attention-flex"]}
    missing, row = attention.measure_case(both, CASE, False, "cpu")
    assert missing == Missing("broken (prefill, mixed)", "RuntimeError: no kernel")
    assert isinstance(row, Row)
    assert row.system == "flex_attention"


@pytest.mark.parametrize("system", [huggingface.DYNAMIC, huggingface.STATIC])
def test_transformers_decodes_its_whole_batch(system: str) -> None:
    torch._dynamo.reset()
    shape = shapes.find("tiny-gqa")
    (row,) = huggingface.measure(shape, system, Setting(2, 24, 8, 5), "cpu", "tiny", 1e9, "float32")
    assert isinstance(row, Row)
    assert (row.system, row.case["batch"]) == (system, 2)
    assert row.figures["tok_s"] > 0
    assert row.figures["first_token_ms"] > 0


def test_a_peers_rates_are_those_of_its_median_round() -> None:
    shape, setting = shapes.find("tiny-gqa"), Setting(3, 24, 8, 5)
    rounds = Rounds(((2.0,), (0.5,), (0.4,)))  # the first was cold: a mean of 0.97 s
    row = huggingface._row(shape, huggingface.DYNAMIC, setting, rounds, 1.0, "x", 1e9, "float32")
    assert row.figures["tok_s"] == pytest.approx(3 / 0.5)
    assert row.figures["ms_step"] == pytest.approx(500.0)
    assert row.figures["spread"] == pytest.approx(4.0)
    read = row.figures["share_of_roofline"] * 1e9
    assert row.figures["TB_s"] == pytest.approx(read * 1e-12)


def test_a_peers_first_batch_holds_its_whole_budget() -> None:
    shape, setting = shapes.find("llama-2-7b"), Setting(0, 3584, 512)
    one = 4096 * 32 * 32 * 128 * 2 * 2
    room = 3 << 30
    dynamic = huggingface.first_batch(
        shape, huggingface.DYNAMIC, setting, room + 34 * one, "bfloat16"
    )
    assert dynamic == 32  # a layer of 32 twice: one sixteenth more
    prompts = huggingface.sequence_bytes(shape, 8192, "bfloat16")
    static = huggingface.first_batch(
        shape, huggingface.STATIC, setting, room + prompts + 34 * one, "bfloat16"
    )
    assert static == 34
    assert huggingface.first_batch(shape, huggingface.STATIC, setting, 0, "bfloat16") == 1
