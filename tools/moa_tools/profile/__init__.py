"""What shrinking the span of a KV head costs: influence curves and the files that hold them."""
