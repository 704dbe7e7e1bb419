"""Plans: importing published ones, showing and comparing ours. All spans come from moa_rt."""
