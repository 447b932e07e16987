"""From a question-answering set to a staged model: data, fine-tuning, and search as a source of both."""
