"""The newcomer's path: every verb once, in a folder of its own, and a page that tells the story."""
