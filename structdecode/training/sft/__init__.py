"""Supervised fine-tuning on staged answers: a recipe, data and a base model in, a checkpoint that every strategy decodes out.

The loop is `transformers.Trainer`'s and the distributed engine accelerate's. TRL's `SFTTrainer` was the other choice: it
brings its own reading of chats, which for image-text models knows neither the schema nor where a staged answer begins,
and no training template for Llama 3.2 Vision; what is left of it beside our collator is the Trainer it derives from.
"""
