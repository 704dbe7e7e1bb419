"""moa-tools: the offline side of moa_rt (conversion, plans, and later calibration and search)."""
