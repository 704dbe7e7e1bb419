"""moa-rt chat: one live sequence, Ctrl-C, commands."""

from __future__ import annotations

import re

from support_cli import MODEL, Running, fails, moa_rt

COMMON = ("--model", MODEL, "--max-new-tokens", "24", "--context", "1024")
TURNS = ["My name is Ada and I live in Oslo.", "What is my name?", "Where do I live?"]
PROMPT_TOKENS = re.compile(r"prompt (\d+) tokens")


def test_answers_are_those_of_the_whole_conversation_read_at_once() -> None:
    import moa_rt as package

    done = moa_rt("chat", *COMMON, text="\n".join(TURNS) + "\n")
    assert done.returncode == 0, done.stderr
    answers: list[str] = []
    messages: list[dict[str, str]] = []
    appended = [int(count) for count in PROMPT_TOKENS.findall(done.stderr)]
    read = 0
    with package.Engine(str(MODEL), max_seq_len=1024) as engine:
        for turn, new in zip(TURNS, appended, strict=True):
            messages.append({"role": "user", "content": turn})
            ids = engine.tokenizer.encode_chat(messages)
            completion = engine.generate([ids], max_new_tokens=24)[0]
            assert new == len(ids) - read  # only what the sequence lacks
            read = len(ids) + len(completion.token_ids)
            answers.append(completion.text)
            messages.append({"role": "assistant", "content": completion.text})
    assert done.stdout == "".join(answer + "\n" for answer in answers)


def test_reset_forgets() -> None:
    done = moa_rt("chat", *COMMON, text=f"{TURNS[0]}\n/reset\n{TURNS[0]}\n/quit\nnever asked\n")
    assert done.returncode == 0
    counts = PROMPT_TOKENS.findall(done.stderr)
    assert len(counts) == 2
    assert counts[0] == counts[1]
    assert done.stdout[: len(done.stdout) // 2] * 2 == done.stdout


def test_a_turn_that_does_not_fit_is_refused_and_the_rest_goes_on() -> None:
    long = "word " * 400
    done = moa_rt("chat", "--model", MODEL, "--context", "128", text=f"{long}\nHello.\n")
    assert done.returncode == 0
    assert done.stderr.startswith("moa_rt: error[E_ARG]: ")
    assert len(PROMPT_TOKENS.findall(done.stderr)) == 1
    assert done.stdout.strip()


def test_context_beyond_the_model() -> None:
    done = moa_rt("chat", "--model", MODEL, "--context", "100000", text="Hello.\n")
    assert fails(done, 2, "E_ARG", "100000")


def test_interrupt_stops_the_answer_and_the_conversation_goes_on() -> None:
    running = Running(
        "chat", "--model", MODEL, "--max-new-tokens", "4000", "--ignore-eos", "--context", "6000"
    )
    running.say("Count to a million.")
    running.wait_for_output(20)
    running.interrupt()
    assert "finish cancelled" in running.wait_for_note("finish")
    running.say("/help")
    assert "/reset" in running.wait_for_note("/quit")
    running.say("Count to a million.")
    running.wait_for_output(20)
    running.interrupt()
    assert "finish cancelled" in running.wait_for_note("finish")
    status, _, _, _ = running.end()
    assert status == 0


def test_two_interrupts_leave() -> None:
    running = Running("chat", "--model", MODEL)
    running.say("/help")
    running.wait_for_note("/quit")
    running.interrupt()
    running.wait_for_note("again")
    running.interrupt()
    assert running.end()[0] == 130
