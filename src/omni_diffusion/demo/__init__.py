"""The newcomer's path: the main verbs, in a folder of its own, and a page that tells the story."""
