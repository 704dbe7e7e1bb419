"""Does the runtime compute what its plan says? Its logits and heads against masks written out."""
