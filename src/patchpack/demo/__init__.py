"""Demo on generated images: training, evaluation and a report, without downloads."""
