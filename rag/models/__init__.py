"""The models: what each needs, where its files are, and the engines that run it."""
