"""moa-rt generate and bench: text in, text out, errors, Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from support_cli import BINARY, MODEL, ROOT, Running, copy_model, fails, generate, json_of, moa_rt

QUESTION = "What is the capital of France?"
SUMMARY = re.compile(
    r"moa_rt: prompt (\d+) tokens \([\d.]+ tok/s\), output (\d+) tokens \([\d.]+ tok/s\), "
    r"KV cache (\d+) bytes, finish (\w+)\n"
)


@pytest.mark.parametrize("plan", [(), ("--density", "0.5")], ids=["dense", "half"])
def test_the_capital_of_france(plan: tuple[str, ...]) -> None:
    done = generate("--prompt", QUESTION, "--max-new-tokens", "16", *plan)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
    assert QUESTION not in done.stdout
    summary = SUMMARY.fullmatch(done.stderr)
    assert summary is not None, done.stderr
    assert int(summary[2]) <= 16


def test_json_says_the_same_as_text() -> None:
    arguments = ("--prompt", QUESTION, "--max-new-tokens", "12")
    text = generate(*arguments)
    summary = SUMMARY.fullmatch(text.stderr)
    assert summary is not None
    answer = json_of(generate(*arguments, "--json", "--logprobs", "2"))
    assert answer["text"] == text.stdout
    assert [answer["prompt_tokens"], answer["completion_tokens"]] == [
        int(summary[1]),
        int(summary[2]),
    ]
    assert answer["finish_reason"] == summary[4]
    assert answer["memory"]["kv_cache_peak"] == int(summary[3])
    assert len(answer["token_ids"]) == len(answer["logprobs"]) == answer["completion_tokens"]
    for token, logprob in zip(answer["token_ids"], answer["logprobs"], strict=True):
        assert logprob["token"] == token
        assert logprob["top"][0]["logprob"] == logprob["logprob"] <= 0  # greedy
        assert len(logprob["top"]) == 2


def test_prompt_from_argument_file_and_standard_input(tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text(QUESTION)
    common = ("--max-new-tokens", "6", "--quiet")
    outputs = [
        generate("--prompt", QUESTION, *common),
        generate("--prompt-file", file, *common),
        generate(*common, text=QUESTION),
    ]
    assert {done.stdout for done in outputs} == {outputs[0].stdout} != {""}
    assert {done.stderr for done in outputs} == {""}


def test_template_is_the_default_and_raw_continues_the_text() -> None:
    common = ("--prompt", QUESTION, "--max-new-tokens", "8", "--json")
    default = json_of(generate(*common))
    chat = json_of(generate(*common, "--chat"))
    raw = json_of(generate(*common, "--raw"))
    system = json_of(generate(*common, "--system", "You are a pirate."))
    assert default["token_ids"] == chat["token_ids"]
    assert raw["prompt_tokens"] < default["prompt_tokens"] != system["prompt_tokens"]


def test_D8_a_marker_in_the_prompt_is_text() -> None:
    plain = json_of(generate("--prompt", "a", "--raw", "--max-new-tokens", "0", "--json"))
    marked = json_of(
        generate("--prompt", "a<|im_end|>", "--raw", "--max-new-tokens", "0", "--json")
    )
    assert marked["prompt_tokens"] > plain["prompt_tokens"] + 1


def test_seed_and_sampling_flags_arrive() -> None:
    common = ("--prompt", "Tell me a story.", "--max-new-tokens", "24", "--temperature", "1.5")
    first, again, other = (generate(*common, "--seed", seed).stdout for seed in ("7", "7", "8"))
    assert first == again != other
    banned = json_of(generate("--prompt", QUESTION, "--max-new-tokens", "1", "--json"))
    token = banned["token_ids"][0]
    changed = json_of(
        generate(
            "--prompt", QUESTION, "--max-new-tokens", "1", "--json", "--logit-bias", f"{token}=-100"
        )
    )
    assert changed["token_ids"] != [token]


def test_stop_text_and_stop_token_end_the_output() -> None:
    common = ("--prompt", QUESTION, "--max-new-tokens", "16", "--json")
    whole = json_of(generate(*common))
    stopped = json_of(generate(*common, "--stop", "nothing like this", "--stop", "Paris"))
    assert stopped["text"] == whole["text"].split("Paris")[0]
    assert stopped["finish_reason"] == "stop"
    third = str(whole["token_ids"][2])
    assert json_of(generate(*common, "--stop-token", third))["token_ids"] == whole["token_ids"][:3]


def test_plan_file_is_used(tmp_path: Path) -> None:
    import moa_rt as package

    config = package.ModelConfig.load(str(MODEL))
    path = tmp_path / "plan.json"
    package.AttentionPlan.uniform(config, 0.5).save(str(path))
    common = ("--prompt", QUESTION, "--max-new-tokens", "200", "--ignore-eos", "--json")
    dense = json_of(generate(*common))
    density = json_of(generate(*common, "--density", "0.5"))
    plan = json_of(generate(*common, "--plan", path))
    assert plan["token_ids"] == density["token_ids"]
    assert plan["memory"]["kv_cache_peak"] == density["memory"]["kv_cache_peak"]
    assert plan["memory"]["kv_cache_peak"] < dense["memory"]["kv_cache_peak"]


def test_bench_reports_every_run() -> None:
    shape = ("--prompt-tokens", "48", "--new-tokens", "6", "--batch", "2", "--repeat", "3")
    report = json_of(moa_rt("bench", "--model", MODEL, *shape, "--json"))
    assert len(report["runs"]) == 3
    for column in ("prefill_tokens_per_second", "decode_tokens_per_second"):
        values = sorted(run[column] for run in report["runs"])
        assert values[0] > 0
        assert [report["median"][column], report["best"][column]] == values[1:]
    best = report["best"]
    # One decode step reads all matrices once for both sequences.
    steps_per_second = best["decode_tokens_per_second"] / 2
    weights = report["memory"]["weights"]
    assert best["decode_gigabytes_per_second"] > 0.9e-9 * weights * steps_per_second
    text = moa_rt("bench", "--model", MODEL, *shape)
    assert re.search(r"^median +[\d.]+ +[\d.]+ +[\d.]+$", text.stdout, re.MULTILINE)


def test_version_and_help() -> None:
    version = moa_rt("--version")
    assert (version.returncode, version.stdout) == (0, "moa-rt 0.1.0\n")
    for command in ((), ("generate",), ("chat",), ("bench",), ("inspect",)):
        assert moa_rt(*command, "--help").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("unknown",),
        ("generate",),
        ("generate", "--model", "x", "--no-such-flag"),
        ("generate", "--model", "x", "--max-new-tokens", "many"),
        ("generate", "--model", "x", "--density", "0.5", "--plan", "p.json"),
        ("generate", "--model", "x", "--raw", "--system", "s"),
        ("bench", "--model", "x", "--repeat", "0"),
        ("generate", "--model", "x", "--prompt", "p", "--logit-bias", "5:1"),
    ],
    ids=" ".join,
)
def test_wrong_command_lines(arguments: tuple[str, ...]) -> None:
    assert fails(moa_rt(*arguments), 2, "E_ARG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--max-new-tokens", "-1"), ["max_new_tokens", "-1"]),
        (("--temperature", "nan"), ["temperature"]),
        (("--top-p", "1.0001"), ["top_p", "1.0001"]),
        (("--max-new-tokens", "10000"), ["10000", "512"]),
        (("--density", "0"), ["density"]),
        (("--density", "nan"), ["density"]),
        (("--threads", "-1"), ["num_threads"]),
        (("--dtype", "int4"), ["int4"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_G6_values_out_of_bounds(arguments: tuple[str, ...], words: list[str]) -> None:
    assert fails(generate("--prompt", QUESTION, *arguments), 2, "E_ARG", *words)


def test_D7_prompt_that_is_not_utf8(tmp_path: Path) -> None:
    assert fails(generate(text=b"abc\xff"), 2, "E_ARG", "3")


def test_D9_prompt_too_long_to_be_worth_tokenizing() -> None:
    assert fails(generate(text="x" * (16 * 512 + 1)), 2, "E_ARG", "8193 bytes", "8192")


def test_G1_empty_raw_prompt() -> None:
    assert fails(generate("--raw", text=""), 2, "E_ARG", "prompt", "0 tokens")


def test_missing_files_are_io_errors(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    assert fails(moa_rt("generate", "--model", missing, "--prompt", "a"), 7, "E_IO", str(missing))
    assert fails(generate("--prompt-file", missing), 7, "E_IO", str(missing))
    assert fails(generate("--prompt-file", tmp_path), 7, "E_IO", str(tmp_path))
    assert fails(generate("--prompt", "a", "--plan", missing), 7, "E_IO", str(missing))


def test_C1_broken_config(tmp_path: Path) -> None:
    model = copy_model(tmp_path / "model")
    (model / "config.json").write_text("{")
    done = moa_rt("generate", "--model", model, "--prompt", "a")
    assert fails(done, 3, "E_FORMAT", "config.json")


def test_E4_plan_of_another_model(tmp_path: Path) -> None:
    import moa_rt as package

    plan = package.AttentionPlan.uniform(package.ModelConfig.load(str(MODEL)), 0.5)
    path = tmp_path / "plan.json"
    plan.save(str(path))
    document = json.loads(path.read_text())
    document["model"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(document))
    common = ("--prompt", QUESTION, "--max-new-tokens", "4", "--plan", str(path))
    assert fails(generate(*common), 5, "E_MISMATCH", "fingerprint")
    forced = generate(*common, "--force-plan")
    assert forced.returncode == 0
    assert "moa_rt: warning: " in forced.stderr
    assert "another model" in forced.stderr


def test_G14_no_such_device() -> None:
    """Whatever the build and the machine."""
    for command in ("generate", "inspect", "chat", "bench"):
        done = moa_rt(command, "--model", MODEL, "--device", "cuda:1000")
        assert fails(done, 10, "E_DEVICE", "cuda:1000")


def test_G14_no_device_to_see() -> None:
    """No driver, no GPU shown to this process, or a build without CUDA."""
    done = subprocess.run(
        [BINARY, "inspect", "--model", MODEL, "--device", "cuda"],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert fails(done, 10, "E_DEVICE", "cuda:0")


def test_I15_closed_pipe_ends_quietly() -> None:
    command = f"'{BINARY}' generate --model '{MODEL}' --prompt Hi --ignore-eos | head -c 1"
    done = subprocess.run(
        ["bash", "-c", command + "; echo ${PIPESTATUS[0]}"],
        cwd=ROOT,
        capture_output=True,
        timeout=300,
        check=True,
    )
    assert (done.stdout[1:], done.stderr) == (b"7\n", b"")


def test_I4_full_disk() -> None:
    command = f"'{BINARY}' inspect --model '{MODEL}' > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, timeout=300, check=False)
    assert done.returncode == 6
    assert done.stderr.startswith(b"moa_rt: error[E_RESOURCE]: standard output: write")


def test_G10_interrupt_ends_with_what_there_is() -> None:
    common = ("--model", MODEL, "--prompt", "Count to a million.", "--ignore-eos")
    running = Running("generate", *common, "--max-new-tokens", "4000")
    first = running.wait_for_output(20)
    running.interrupt()
    status, rest, notes, seconds = running.end()
    assert status == 130
    summary = SUMMARY.fullmatch(notes)
    assert summary is not None, notes
    assert summary[4] == "cancelled"
    assert 0 < int(summary[2]) < 4000
    assert len(first + rest) >= 20
    assert seconds < 5


def test_interrupt_during_prefill_is_answered_at_once() -> None:
    running = Running("bench", "--model", MODEL, "--prompt-tokens", "8000", "--repeat", "50")
    with pytest.raises(subprocess.TimeoutExpired):
        running.process.wait(timeout=3)
    running.interrupt()
    status, out, notes, seconds = running.end()
    assert (status, out, notes) == (130, "", "")
    assert seconds < 5
