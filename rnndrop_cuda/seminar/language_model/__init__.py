"""Language models with the package's LSTM: text, model, training, perplexity, generation."""
