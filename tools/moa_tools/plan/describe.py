"""Plans as tables of text."""

from __future__ import annotations

from collections.abc import Sequence

from moa_rt import AttentionPlan, ModelConfig


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Right-aligned columns with a rule under the header."""
    cells = [list(header)] + [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, "  ".join("-" * w for w in widths))
    return "\n".join(lines)


def default_lengths(plan: AttentionPlan) -> list[int]:
    """Powers of two in the plan's range, at most five, the range's ends included."""
    low, high = max(plan.min_length, 1024), min(plan.max_length, 32768)
    lengths = {n for n in (1024, 2048, 4096, 8192, 16384, 32768) if low <= n <= high}
    return sorted(lengths or {plan.min_length, plan.max_length})[:5]


def _rule_text(alpha: int, beta: float, max_span: int) -> str:
    limit = f" <= {max_span}" if max_span else ""
    return f"{alpha} + {beta:g} N{limit}"


def show(plan: AttentionPlan, config: ModelConfig | None, lengths: Sequence[int]) -> str:
    """Everything worth knowing of a plan. Bytes are for bfloat16 and need the model's config."""
    parts = [_head(plan), _densities(plan, config, lengths)]
    parts.extend(_layers(plan, config, n) for n in lengths)
    return "\n\n".join(parts)


def _head(plan: AttentionPlan) -> str:
    lines = [
        f"layers {plan.num_layers}, KV heads {plan.num_kv_heads}, sink {plan.sink_size}, rounding "
        f"{plan.rounding}",
        f"lengths {plan.min_length}..{plan.max_length}, outside: {plan.out_of_range}",
        f"model {plan.model_name or '(any)'}, fingerprint {plan.fingerprint or '(any)'}",
    ]
    different = {(r.alpha, r.beta, r.max_span) for row in plan.rules for r in row}
    names = [_rule_text(*rule) for rule in sorted(different)]
    more = f", ... ({len(names)} in all)" if len(names) > 8 else ""
    lines.append(f"rules: {', '.join(names[:8])}{more}")
    lines.extend(f"provenance {k}: {v}" for k, v in sorted(plan.provenance.items()))
    quality = sorted(plan.quality.items())
    lines.extend(f"quality {k}: {v:g}" for k, v in quality)
    if not quality:
        lines.append("quality: not measured")
    return "\n".join(lines)


def _densities(plan: AttentionPlan, config: ModelConfig | None, lengths: Sequence[int]) -> str:
    header = ["N", "density"] + (["KV bytes"] if config else [])
    rows = []
    for n in lengths:
        row: list[object] = [n, f"{plan.density(n):.4f}"]
        if config:
            row.append(plan.cache_bytes(n, "bfloat16", config))
        rows.append(row)
    return table(header, rows)


def _layers(plan: AttentionPlan, config: ModelConfig | None, n: int) -> str:
    rows = []
    for layer, heads in enumerate(plan.spans(n)):
        spans = [head.span for head in heads]
        dense = sum(span >= n for span in spans)
        row: list[object] = [layer, min(spans), f"{sum(spans) / len(spans):.0f}", max(spans), dense]
        if config:
            row.append(sum(spans) * 2 * config.head_dim * 2)
        rows.append(row)
    header = ["layer", "min", "mean", "max", "dense heads"] + (["KV bytes"] if config else [])
    return f"spans at N = {n}\n" + table(header, rows)


def diff(a: AttentionPlan, b: AttentionPlan, lengths: Sequence[int]) -> str:
    """What differs, empty if nothing does."""
    lines = []
    for name in (
        "num_layers",
        "num_kv_heads",
        "sink_size",
        "rounding",
        "min_length",
        "max_length",
        "out_of_range",
        "fingerprint",
        "model_name",
    ):
        left, right = getattr(a, name), getattr(b, name)
        if left != right:
            lines.append(f"{name}: {left} | {right}")
    for name in ("provenance", "quality"):
        left, right = dict(getattr(a, name)), dict(getattr(b, name))
        for key in sorted(set(left) | set(right)):
            if left.get(key) != right.get(key):
                lines.append(f"{name} {key}: {left.get(key, '-')} | {right.get(key, '-')}")
    if (a.num_layers, a.num_kv_heads) == (b.num_layers, b.num_kv_heads):
        lines.extend(_rule_differences(a, b, lengths))
    return "\n".join(lines)


def _rule_differences(a: AttentionPlan, b: AttentionPlan, lengths: Sequence[int]) -> list[str]:
    rows = []
    for layer, (left_row, right_row) in enumerate(zip(a.rules, b.rules, strict=True)):
        for head, (left, right) in enumerate(zip(left_row, right_row, strict=True)):
            if left != right:
                texts = [_rule_text(r.alpha, r.beta, r.max_span) for r in (left, right)]
                rows.append([layer, head, *texts])
    if not rows:
        return []
    count = a.num_layers * a.num_kv_heads
    lines = [f"{len(rows)} of {count} rules differ", table(["layer", "head", "A", "B"], rows)]
    densities = [[n, f"{a.density(n):.4f}", f"{b.density(n):.4f}"] for n in lengths]
    return [*lines, table(["N", "density A", "density B"], densities)]
